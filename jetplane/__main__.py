"""`python -m jetplane` is the command `jetplane`."""

from jetplane.cli.main import main

if __name__ == "__main__":
    main()
