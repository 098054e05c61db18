"""`python -m avae`: the command line."""

from avae.cli import main

if __name__ == "__main__":
    main()
