"""`python -m stylescore`."""

from stylescore.cli.main import run

if __name__ == "__main__":
    run()
