"""`python -m fastvlm` is the `fastvlm` command."""

from fastvlm.cli.app import main

if __name__ == "__main__":
    main()
