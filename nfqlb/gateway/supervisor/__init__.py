"""The supervisor: starts, watches and replaces workers; reloads, upgrades, and takes over from a gateway that died."""
