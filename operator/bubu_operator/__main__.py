"""``python -m bubu_operator`` is ``bubu-operator``."""

from bubu_operator.cli import main

if __name__ == "__main__":
    main()
