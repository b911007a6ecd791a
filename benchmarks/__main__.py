"""All benchmarks, one after the other: `python -m benchmarks`, or `make bench`."""

from benchmarks import data, evaluate, models, train


def main() -> None:
    """Run each with its defaults."""
    models.main([])
    train.main([])
    data.main([])
    evaluate.main([])


if __name__ == "__main__":
    main()
