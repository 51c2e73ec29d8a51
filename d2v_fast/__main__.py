"""`python -m d2v_fast` is the command `d2v-fast`."""

from d2v_fast.commands.cli import main

if __name__ == "__main__":
    main()
