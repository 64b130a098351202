"""`python -m tinysweep` is the command `tinysweep`."""

from tinysweep.commands.train import main

if __name__ == "__main__":
    main()
