"""Trains the samples' networks on the digits and caches them; a sample trains its network itself if needed."""

import argparse
import sys
from pathlib import Path

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from sample.common import digits
from sample.common.training import accuracy, trained
from sample.common.zoo import RECIPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="*", help=f"{', '.join(RECIPES)}; default: all of them")
    names = parser.parse_args().network or list(RECIPES)
    if unknown := set(names) - set(RECIPES):
        parser.error(f"unknown network {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    _, held_out = digits.load()
    for name in names:
        print(f"{name}: {accuracy(trained(name), held_out):.2%} of {len(held_out)} held-out digits")


if __name__ == "__main__":
    main()
