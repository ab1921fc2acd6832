"""Signed bundles: what gets in, what serves, what goes back; a thousand spoilt ones and none accepted."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundle_workshop import copy_of_default, edit_golden, edit_manifest
from release_workshop import Workshop, confirmed, quick_folder

from edgefer.bundle import MANIFEST, MANIFEST_HASH, file_sha256, open_bundle
from edgefer.config import Infer
from edgefer.errors import EX_CONFIG, EX_USAGE, BundleError, ConfigError, EdgeferError, ServiceError, UsageError
from edgefer.infer import open_network
from edgefer.release import RELEASE, SIGNATURE, Keys
from edgefer.store import MAX_STAGED, Store
from export import sign
from export.errors import InputError
from export.errors import UsageError as ExportUsage


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = quick_folder(tmp_path_factory.mktemp("workshop"))
    yield Workshop(folder)
    shutil.rmtree(folder)


@pytest.fixture
def w(workshop: Workshop) -> Workshop:
    """The keys of the module with an empty store."""
    for made in workshop.folder.glob("made-*"):
        shutil.rmtree(made)
    shutil.rmtree(workshop.folder / "store", ignore_errors=True)
    return workshop


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder: files by content, links by target."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def test_from_staged_to_trial_to_confirmed_and_back(w: Workshop) -> None:
    store = w.store()
    assert (store.current(), store.candidates(), store.highest()) == (None, [], 0)
    first = store.install(w.bundle("1.1.0", 5))
    assert (first.name, first.number, first.roles) == ("default@1.1.0", 5, ())
    assert store.current() is None, "staged is not active"
    assert store.activate("default@1.1.0").on_trial
    assert store.open("default@1.1.0").title == "default@1.1.0"
    assert store.confirm("default@1.2.0") is None, "only what is on trial"
    confirmed_ = store.confirm("default@1.1.0")
    assert confirmed_ is not None
    assert not confirmed_.on_trial
    assert store.confirm("default@1.1.0") is None
    store.install(w.bundle("1.2.0", 6))
    store.activate("default@1.2.0")
    assert store.candidates() == ["default@1.2.0", "default@1.1.0"]
    assert store.rollback() == "default@1.1.0", "a trial goes back to what was confirmed"
    store.activate("default@1.2.0")
    store.confirm("default@1.2.0")
    assert store.highest() == 6
    assert store.rollback() == "default@1.1.0", "a confirmed one to the one before"
    assert store.highest() == 6
    assert store.rollback() is None, "and that to the one that ships"
    with pytest.raises(BundleError, match="ships serves already"):
        store.rollback()


def test_what_was_taken_back_is_chosen_by_name_only(w: Workshop) -> None:
    store = w.store()
    with pytest.raises(BundleError, match="no bundle is staged here"):
        store.newest()
    confirmed(store, w.bundle("1.1.0", 5))
    store.activate(store.install(w.bundle("2.0.0", 20)).name)
    store.rollback()
    for again in (store, w.store()):  # and another process knows
        with pytest.raises(BundleError, match=r"default@2\.0\.0 was taken back here: .*bundle activate.*higher number"):
            again.newest()
    store.install(w.bundle("1.9.0", 15))
    assert store.newest() == "default@1.9.0", "which nobody has tried yet"
    store.install(w.bundle("2.0.1", 21))
    assert store.newest() == "default@2.0.1"
    store.activate("default@2.0.1")
    assert store.rollback() == "default@1.1.0"
    store.activate("default@2.0.0")
    assert store.taken_back() == {21}, "by name 2.0.0 was forgiven"


def test_a_disk_that_cannot_remember_keeps_no_bundle_from_going_back(
    w: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    store = w.store()
    store.activate(store.install(w.bundle("2.0.0", 20)).name)
    (store.folder / "taken-back").mkdir()
    assert store.rollback() is None
    assert "taken-back" in caplog.text


def test_nothing_older_than_what_was_confirmed_comes_in(w: Workshop) -> None:
    store = w.store()
    older = w.bundle("1.1.0", 5)
    store.install(older)
    confirmed(store, w.bundle("1.2.0", 7))
    with pytest.raises(BundleError, match=r"5 is below 7.*sign it again"):
        store.install(older)
    assert [e.name for e in store.entries()] == ["default@1.2.0"], "what can never serve again is gone"
    store.install(w.bundle("1.2.1", 7))  # the same number is not lower


def test_a_staged_one_that_has_become_too_old_is_not_activated(w: Workshop) -> None:
    store = w.store()
    store.install(w.bundle("1.1.0", 5))
    (store.folder / "highest").write_text("6\n")
    with pytest.raises(BundleError, match="5 is below 6"):
        store.activate("default@1.1.0")
    (store.folder / "highest").write_text("many\n")
    with pytest.raises(BundleError, match="highest: unreadable"):
        store.activate("default@1.1.0")


def test_an_unconfirmed_number_does_not_lock_the_door(w: Workshop) -> None:
    store = w.store()
    store.install(w.bundle("9.0.0", 2**40))
    store.activate("default@9.0.0")
    store.rollback()
    confirmed(store, w.bundle("1.1.0", 5))


def test_the_second_slot_lets_a_fleet_change_keys_without_a_gap(w: Workshop) -> None:
    both = w.store()
    confirmed(both, w.bundle("1.1.0", 5, "key-1"))
    confirmed(both, w.bundle("1.2.0", 6, "key-2"))
    only_new = w.store(Keys([w.public("key-2"), ""]))
    assert only_new.open("default@1.2.0")
    with pytest.raises(BundleError, match="not signed by a key this device trusts"):
        only_new.install(w.bundle("1.3.0", 7, "key-1"))
    with pytest.raises(BundleError, match=r"set 'update\.key_1'"):
        w.store(Keys(["", ""])).install(w.bundle("1.3.1", 7))


def test_a_key_that_is_none_names_its_slot(w: Workshop, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for files, part in (
        (["gone"], "update.key_1': gone"),
        (["", str(tmp_path / "junk")], "update.key_2"),
        ([str(w.key())], "update.key_1"),
    ):
        with pytest.raises(ConfigError, match=part) as e:
            Keys(files)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name", ["../staged/default@1.1.0", "/etc", "https://x/y", "default", "default@1.1.0/", "", "."]
)
def test_only_names_are_activated_never_paths(name: str, w: Workshop) -> None:
    store = w.store()
    store.install(w.bundle("1.1.0", 5))
    with pytest.raises(UsageError, match="no name of a staged bundle") as e:
        store.activate(name)
    assert e.value.exit_code == EX_USAGE
    with pytest.raises(BundleError, match="not staged here"):
        store.activate("default@1.1.1")


def test_the_golden_vectors_decide_before_activation(w: Workshop, tmp_path: Path) -> None:
    def golden(bundle: object) -> None:
        open_network(bundle, Infer()).close()  # type: ignore[arg-type]

    store = Store(tmp_path / "store", w.keys(), golden)
    store.activate(store.install(w.real("1.1.0", 5)).name)
    wrong = copy_of_default(tmp_path)
    edit_golden(wrong, logits=open_bundle(wrong).golden.logits[:, ::-1])
    w.sign(wrong, "1.2.0", 6)
    store.install(wrong)
    with pytest.raises(BundleError, match=r"golden\.npz.*off by"):
        store.activate("default@1.2.0")
    assert store.current() == "default@1.1.0"


def test_the_same_again_is_no_fault_and_other_content_under_its_name_is(w: Workshop) -> None:
    store = w.store()
    confirmed(store, w.bundle("1.1.0", 5))
    before = tree(store.folder)
    store.install(w.bundle("1.1.0", 5, "key-2"))
    assert tree(store.folder) == before
    with pytest.raises(UsageError, match="another version"):
        store.install(w.bundle("1.1.0", 6))


def test_a_spoilt_staged_bundle_is_cured_by_installing_it_again(w: Workshop) -> None:
    store, good = w.store(), w.bundle("1.1.0", 5)
    name = confirmed(store, good)
    (store.folder / "staged" / name / "classifier.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="classifier"):
        store.open(name)
    store.install(good)
    assert store.open(name)


def test_the_store_does_not_fill_the_disk(w: Workshop) -> None:
    store = w.store()
    for k in range(MAX_STAGED):
        store.install(w.bundle(f"1.1.{k}", 5 + k))
    with pytest.raises(BundleError, match="8 bundles are staged"):
        store.install(w.bundle("1.2.0", 50))
    store.activate("default@1.1.7")
    store.confirm("default@1.1.7")
    store.install(w.bundle("1.2.1", 50))


def test_a_bundle_larger_than_the_limit_and_one_of_links(w: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    store, source = w.store(), w.bundle("1.1.0", 5)
    with monkeypatch.context() as m:
        m.setattr("edgefer.intake.MAX_BYTES", 10_000)
        with pytest.raises(BundleError, match="too large"):
            store.install(source)
    (source / "classifier.onnx").rename(source / "real")
    (source / "classifier.onnx").symlink_to("real")
    with pytest.raises(BundleError, match=r"classifier\.onnx"):
        store.install(source)
    manifest = source / "manifest.json"
    whole = manifest.read_bytes()
    os.truncate(manifest, 2**30)
    with pytest.raises(BundleError, match=r"manifest\.json: too large"):  # before a gigabyte of it is read
        store.install(source)
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(BundleError, match="not a regular file"):  # and no reader waits for ever
        store.install(source)
    manifest.unlink()
    manifest.write_bytes(whole)
    (source / "classifier.onnx").unlink()
    os.mkfifo(source / "classifier.onnx")
    with pytest.raises(BundleError, match="not a regular file"):
        store.install(source)
    assert store.entries() == []
    assert list((store.folder / "staged").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs: needs root")
def test_a_full_disk_is_one_line_and_the_old_one_serves_on(w: Workshop, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", tmp_path], check=False)
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        store = Store(tmp_path / "store", w.keys(), lambda bundle: None)
        name = confirmed(store, w.bundle("1.1.0", 5))
        (tmp_path / "filler").write_bytes(bytes(shutil.disk_usage(tmp_path).free - 8192))
        with pytest.raises(ServiceError, match="No space left"):
            store.install(w.bundle("1.2.0", 6))
        assert store.open(name)
        assert [e.name for e in store.entries()] == [name]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# -- a thousand spoilt bundles -----------------------------------------------------------------------------------------

FILES = ("classifier.onnx", "golden.npz", "MODEL_CARD.md", MANIFEST, MANIFEST_HASH, RELEASE, SIGNATURE)
Spoil = Callable[[Path, random.Random, Workshop], object]


def flip(b: Path, r: random.Random, _w: Workshop) -> None:
    file = b / r.choice(FILES)
    data = bytearray(file.read_bytes())
    data[r.randrange(len(data))] ^= r.randrange(1, 256)
    file.write_bytes(data)


def truncate(b: Path, r: random.Random, _w: Workshop) -> None:
    file = b / r.choice(FILES)
    os.truncate(file, r.randrange(file.stat().st_size))


def append(b: Path, r: random.Random, _w: Workshop) -> None:
    with (b / r.choice(FILES)).open("ab") as f:
        f.write(r.choice([b"\n", b" ", b"\0" * 512, b"}"]))


def missing(b: Path, r: random.Random, _w: Workshop) -> None:
    (b / r.choice(FILES)).unlink()


def exchange(b: Path, r: random.Random, _w: Workshop) -> None:
    one, other = r.sample(FILES, 2)
    (b / one).rename(b / "x")
    (b / other).rename(b / one)
    (b / "x").rename(b / other)


def of_another(b: Path, r: random.Random, w: Workshop) -> None:
    name = r.choice([f for f in FILES if f not in ("golden.npz", "MODEL_CARD.md")])  # these two are the same in both
    shutil.copyfile(w.folder / "other" / name, b / name)


def foreign(b: Path, r: random.Random, w: Workshop) -> None:
    sign.sign(b, r.randrange(1, 1000), w.key("foreign"))


def older(b: Path, r: random.Random, w: Workshop) -> None:
    sign.sign(b, r.randrange(1, 7), w.key(r.choice(["key-1", "key-2"])))


def resealed(b: Path, r: random.Random, _w: Workshop) -> None:
    """By somebody who knows the format and has no key."""
    edit_manifest(b, lambda m: m.update(temperature=m["temperature"] + r.random()))
    text = (b / RELEASE).read_text()
    (b / RELEASE).write_text(text.replace(text.split('"manifest_sha256": "')[1][:64], file_sha256(b / MANIFEST)))


def renumbered(b: Path, r: random.Random, _w: Workshop) -> None:
    text = (b / RELEASE).read_text()
    (b / RELEASE).write_text(text.replace('"number": 8', f'"number": {r.randrange(9, 10**6)}'))


SPOILS: tuple[Spoil, ...] = (
    flip, flip, flip, truncate, append, missing, exchange, of_another, foreign, older, resealed, renumbered,
)  # fmt: skip


def test_of_a_thousand_spoilt_bundles_none_is_accepted_and_the_old_one_serves_on(w: Workshop) -> None:
    """Each is offered for installing; and put where a staged bundle lies, as by a worn disk, and activated."""
    random_, store = random.Random(20), w.store()
    serves = confirmed(store, w.bundle("1.1.0", 7))
    good = w.bundle("1.2.0", 8)
    shutil.rmtree(w.folder / "other", ignore_errors=True)
    w.bundle("1.3.0", 9).rename(w.folder / "other")
    before, accepted, refused = tree(store.folder), [], []
    for k in range(1000):
        spoil = SPOILS[k % len(SPOILS)]
        staged = store.folder / "staged" / "default@1.2.0"
        target = staged if k % 2 else w.folder / "offered"
        shutil.copytree(good, target)
        spoil(target, random_, w)
        try:
            if k % 2 == 0:
                store.install(target)
            store.activate("default@1.2.0")
            accepted.append((k, spoil.__name__))
        except EdgeferError as e:
            refused.append((e.exit_code, "\n" in str(e)))
        shutil.rmtree(target, ignore_errors=True)
    assert accepted == []
    assert refused == [(EX_CONFIG, False)] * 1000
    assert tree(store.folder) == before
    assert store.open(serves)
    store.install(good)  # and unspoilt it is accepted
    store.activate("default@1.2.0")


# -- the workstation's half --------------------------------------------------------------------------------------------


def test_keys_are_private_locked_on_request_and_never_overwritten(tmp_path: Path, w: Workshop) -> None:
    (tmp_path / "words").write_text("open sesame\n")
    sign.keygen(tmp_path / "keys", tmp_path / "words")
    key = tmp_path / "keys" / sign.PRIVATE
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ExportUsage, match="is there already"):
        sign.keygen(tmp_path / "keys")
    bundle = w.bundle("1.1.0", 5)
    with pytest.raises(InputError, match="needs --passphrase-file"):
        sign.sign(bundle, 6, key)
    (tmp_path / "other words").write_text("shut\n")
    with pytest.raises(InputError, match="another passphrase"):
        sign.sign(bundle, 6, key, tmp_path / "other words")
    assert sign.sign(bundle, 6, key, tmp_path / "words").number == 6
    with pytest.raises(InputError, match="not a private key"):
        sign.sign(bundle, 6, tmp_path / "keys" / sign.PUBLIC)
    assert (
        Store(tmp_path / "s", Keys([str(tmp_path / "keys" / sign.PUBLIC)]), lambda b: None).install(bundle).number == 6
    )


def test_what_does_not_open_is_not_signed(tmp_path: Path, w: Workshop) -> None:
    bundle = copy_of_default(tmp_path)
    (bundle / "classifier.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"classifier\.onnx"):
        sign.sign(bundle, 6, w.key())
    assert not (bundle / SIGNATURE).exists()
