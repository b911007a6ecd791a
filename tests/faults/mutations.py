"""Protections of the code, each with the row that must fail without it, or it would prove nothing (mutate.py)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """`old` occurs once in `path`; with `new` in its place trial number `trial` of the row fails.

    `also` is for protections that stand in for each other.
    """

    row: int
    without: str
    path: str
    old: str
    new: str
    trial: int = 0
    also: tuple[tuple[str, str], ...] = ()  # more of `old` and `new` in the same file

    def applied(self, text: str) -> str:
        """The text of the file without the protection; raises ValueError if it is not there, or not clear where."""
        for old, new in ((self.old, self.new), *self.also):
            if text.count(old) != 1:
                raise ValueError(f"{old!r} occurs {text.count(old)} times in {self.path}, but must occur once")
            text = text.replace(old, new)
        return text


MUTATIONS = (
    Mutation(
        1,
        "workers being started again",
        "flows/adapters/ray_training.py",
        "failure_config=FailureConfig(max_failures=MAX_FAILURES)",
        "failure_config=FailureConfig(max_failures=0)",
        also=(("if reached <= max(before, 0):", "if True:"),),
    ),
    Mutation(
        3,
        "the values of an unfinished log interval in a checkpoint",
        "vit/training/meter.py",
        "if self._steps:",
        "if False:",
    ),
    Mutation(
        2,
        "a stage that ends with whoever started it",
        "flows/stages/__main__.py",
        "os._exit(143)",
        "return",
        trial=2,
    ),
    Mutation(
        3,
        "workers that are asked to save",
        "flows/adapters/ray_mailbox.py",
        "if preemption.is_requested(at_log=True) and not told:",
        "if False:",
        trial=1,
    ),
    Mutation(
        4,
        "the rename at the end of a checkpoint",
        "vit/training/checkpoint.py",
        "work.rename(final)",
        "shutil.copytree(work, final)",
    ),
    Mutation(
        4,
        "the removal of half-written checkpoints",
        "vit/training/checkpoint.py",
        "shutil.rmtree(leftover, ignore_errors=True)",
        "pass",
        trial=1,
    ),
    Mutation(
        5,
        "digests of checkpoints",
        "vit/training/checkpoint.py",
        "(there.stat().st_size, _sha256(there)) != expected",
        "there.stat().st_size != expected[0]",
    ),
    Mutation(
        5,
        "the fingerprint of the run in a checkpoint",
        "vit/training/checkpoint.py",
        'if manifest.get("fingerprint") != fingerprint:',
        "if False:",
        trial=4,
    ),
    Mutation(
        6,
        "batches that are cut into ranks second",
        "vit/data/order.py",
        "return step * batch_size + rank * count + np.arange(count)",
        "return step * batch_size + rank + world_size * np.arange(count)",
    ),
    Mutation(
        7,
        "outputs without times",
        "flows/stages/output.py",
        "hexdigest()[:12], **wanted}",
        'hexdigest()[:12], **wanted, "at": __import__("time").time()}',
    ),
    Mutation(8, "the limit of a deployment", "flows/deploy.py", "limit=1, collision", "limit=10, collision"),
    Mutation(
        9,
        "one promotion at a time",
        "flows/adapters/mlflow_store.py",
        "fcntl.flock(file, fcntl.LOCK_EX)",
        "pass",
    ),
    Mutation(
        10,
        "saying later what MLflow could not be told",
        "flows/adapters/mlflow_endings.py",
        'if not any((root() / UNTOLD).glob("*.json")):',
        "if True:",
        trial=1,
    ),
    Mutation(
        10,
        "a runner that goes on asking",
        "flows/deploy.py",
        "    _outlive_outages()\n    offered",
        "    offered",
        trial=2,
    ),
    Mutation(
        11, "asking S3 again", "flows/adapters/s3_requests.py", "attempts=8, first_wait", "attempts=1, first_wait"
    ),
    Mutation(
        12,
        "digests of what comes from S3",
        "flows/adapters/file_cache.py",
        "if wanted.sha256 in (None, sha256):",
        "if True:",
        trial=2,
    ),
    Mutation(
        13, "the removal of parts of killed uploads", "flows/adapters/s3_objects.py", "if size > PART:", "if False:"
    ),
    Mutation(
        14,
        "the sentence about a full disk",
        "flows/stages/output.py",
        "if error.errno != errno.ENOSPC:",
        "if True:",
    ),
    Mutation(
        14,
        "outputs that vanish when they fail",
        "flows/stages/output.py",
        "        shutil.rmtree(work, ignore_errors=True)\n\n\ndef describe",
        "        pass\n\n\ndef describe",
    ),
    Mutation(
        15,
        "outputs that vanish when they fail",
        "flows/stages/output.py",
        "        shutil.rmtree(work, ignore_errors=True)\n\n\ndef describe",
        "        pass\n\n\ndef describe",
        trial=2,
    ),
    Mutation(16, "the limit of pixels", "vit/data/pictures.py", "MAX_PIXELS = 89_478_485", "MAX_PIXELS = 10**12"),
    Mutation(17, "digests of images", "vit/data/shards.py", "if wanted and hashlib", "if False and hashlib", trial=1),
    Mutation(
        17,
        "the sizes of shards",
        "vit/data/shards.py",
        'size != shard["bytes"]',
        "False",
        trial=4,
    ),
    Mutation(
        18,
        "the range of labels",
        "vit/data/hygiene.py",
        "if not 0 <= label < num_classes]",
        "if False]",
    ),
    Mutation(
        19,
        "the stop at what is no number",
        "vit/training/meter.py",
        "for step, loss, norm in zip(steps, losses, norms, strict=True):",
        "for step, loss, norm in []:",
    ),
    Mutation(
        20,
        "the limit of what a rank may keep the others waiting",
        "flows/adapters/ray_cluster.py",  # both that of Ray's controller and that of torch's process group
        "    return seconds\n",
        "    return 1800.0\n",
    ),
    Mutation(
        21,
        "the sentence about memory",
        "vit/training/memory.py",
        "if not _is_about_memory(error):",
        "if True:",
    ),
    Mutation(
        22,
        "a training that is asked before its flow ends",
        "flows/tasks.py",
        "prefect.utilities.engine._prefect_sigterm_handler = _save_or_terminate",
        "print",
    ),
    Mutation(
        23,
        "a stage that ends with the DVC that started it",
        "flows/stages/__main__.py",
        "    end_with_parent()  # before",
        "    pass  # before",
        trial=1,
    ),
    Mutation(
        25,
        "verification of what DVC downloads",
        "flows/adapters/dvc_repo.py",
        '{"verify": True}',
        '{"verify": False}',
    ),
    Mutation(
        26,
        "the look at a checkpoint's tensors",
        "vit/training/checkpoint.py",
        "_check_header(there)",
        "pass",
        trial=2,
    ),
    Mutation(
        26,
        "the refusal of links in archives",
        "vit/data/datasets/archives.py",
        "if not info.isreg() or info.issparse():",
        "if False:",
        trial=1,
    ),
    Mutation(
        27,
        "transfers that are kept as they finish",
        "flows/stages/transfers.py",
        "done = {name: kept for name, kept in found.items() if kept is not None}",
        "done = {}",
    ),
    Mutation(
        28,
        "the refusal of ties",
        "flows/adapters/mlflow_gate.py",
        "if not (value > best and value",
        "if not (value >= best and value",
        trial=2,
    ),
    Mutation(
        28,
        "the refusal of NaN",
        "flows/adapters/mlflow_gate.py",
        "if math.isnan(value):",
        "if False:",
        trial=4,
    ),
    Mutation(
        28,
        "the refusal of other data",
        "flows/adapters/mlflow_gate.py",
        "if champion.tags.get(EVALUATED_ON) != candidate.tags.get(EVALUATED_ON):",
        "if False:",
        trial=7,
    ),
    Mutation(
        29,
        "an alias that moves by one request",
        "flows/adapters/mlflow_gate.py",
        "    _point(name, CHAMPION, candidate.version)\n",
        "    client().delete_registered_model_alias(name, CHAMPION)\n    import time\n    time.sleep(0.2)\n"
        "    _point(name, CHAMPION, candidate.version)\n",
    ),
)
