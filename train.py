"""Train a GPT: words in, a run out: ``python train.py --opt adamw --schedule warmup_cosine``, or ``--help``."""

from minigpt_flax.train import cli


def main(arguments: list[str] | None = None) -> int:
    """Does what the words say; returns the exit status."""
    return cli.guarded("train.py", lambda: run(cli.parse(arguments)))


def run(request: cli.Request) -> int:
    """Shows names, or trains. What imports JAX is imported only here, when it is needed."""
    if request.list or request.explain is not None:
        from minigpt_flax.train.catalog import show

        return show(request)
    from minigpt_flax.train.fit import fit

    return fit(request)


if __name__ == "__main__":
    cli.leave(main())
