"""`python -m adumbra` is the `adumbra` command."""

from adumbra.cli.main import run

if __name__ == "__main__":
    run()
