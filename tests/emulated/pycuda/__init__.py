"""PyCUDA as far as edgefer uses it, on the processor. See driver.py."""
