"""``edgefer demo``: the service's own pipeline on a synthetic drive, watched over MQTT."""
