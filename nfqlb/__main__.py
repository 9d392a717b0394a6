"""The way in: the `nfqlb` command of the installed package, and `python -m nfqlb`."""

from nfqlb import interrupt

interrupt.at_once()  # before the modules are loaded that take their time

from nfqlb.cli import main  # noqa: E402

if __name__ == "__main__":
    main(prog_name="nfqlb")
