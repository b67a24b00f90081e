"""`python -m bigtrain` is `bigtrain`."""

from bigtrain.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
