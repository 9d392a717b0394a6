"""`python -m nfqlb` is the `nfqlb` command."""

from nfqlb.cli import main

main(prog_name="nfqlb")
