"""The TOML file as frozen, validated values: `build` reads and checks it, `model` is what comes of it. Nothing here
looks at the host: `nfqlb.gateway.preflight` does.
"""
