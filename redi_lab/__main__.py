"""`python -m redi_lab`, the same as the console script `redi-lab`."""

from redi_lab.cli import main

if __name__ == "__main__":
    main()
