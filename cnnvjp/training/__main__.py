"""Trains a network on images, as scripts/train.py does: `python -m cnnvjp.training --help`."""

from cnnvjp.training.commands import train_main
from cnnvjp.training.huge_pages import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages("cnnvjp.training")
    train_main(program="python -m cnnvjp.training")
