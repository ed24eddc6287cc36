"""Run the command line as ``python -m epanns``."""

from epanns.cli.main import main

if __name__ == "__main__":
    main()
