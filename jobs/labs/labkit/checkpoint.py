"""Checkpoints of one run: everything that training needs to go on, written by rank 0."""

import json
import shutil
from pathlib import Path
from typing import Any

from labs.labkit import LabError
from labs.labkit.lazy import tf

EVERY = 30.0  # seconds: what a job that is killed loses at most
KEEP = 2
RUN = "run/.ATTRIBUTES/VARIABLE_VALUE"  # TensorFlow's name, in its file, for what is saved as `run`


class Checkpoints:
    """Checkpoints in *directory*, of the run that *settings* describe; *state* is what TensorFlow saves.

    With the state goes a text, `run`: the settings, which a continued run must share, and the history that
    belongs in its curves. One file for all of it: after a crash they are of the same step. Data order and
    dropout follow from the step: no more is needed.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], **state: Any) -> None:
        self.directory = directory
        self.settings = settings
        self.run = tf.Variable("", trainable=False)
        self.manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(run=self.run, **state), str(directory), KEEP
        )

    def save(self, step: int, history: dict[str, Any]) -> None:
        """Write a checkpoint of *step*; the former one stays valid until this one is complete.

        Raises:
            LabError: the directory is full or cannot be written to.
        """
        self.run.assign(json.dumps({"settings": self.settings, "history": history}))
        try:
            self.manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            for part in self.directory.glob(f"ckpt-{step}*"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            latest = tf.train.latest_checkpoint(str(self.directory))
            stays = f"the one of step {latest.rpartition('-')[2]} stays" if latest else "there is none yet"
            raise LabError(
                f"the checkpoint of step {step} could not be written to {self.directory} ({error}); {stays}: "
                "make room, or name a place with --results, and start the same command again",
            ) from error

    def restore(self, steps: int) -> dict[str, Any] | None:
        """Load the latest checkpoint that is whole and return its history; None where there is none.

        Raises:
            LabError: the checkpoint is of another lab, of other settings, or of more than *steps* steps.
        """
        for latest in reversed(self.manager.checkpoints):
            try:
                return self._load(latest, steps)
            except (tf.errors.OpError, IndexError, ValueError, AssertionError) as error:
                print(
                    f"{latest} is damaged and left alone ({type(error).__name__}): the one before it serves"
                )
        return None

    def _load(self, latest: str, steps: int) -> dict[str, Any]:
        reader = tf.train.load_checkpoint(latest)
        run = json.loads(reader.get_tensor(RUN)) if reader.has_tensor(RUN) else {"settings": {}}
        for key, value in self.settings.items():
            found = run["settings"].get(key)
            if found != value:
                raise LabError(
                    f"{self.directory} holds a checkpoint with {key} {found}, this run has {value}: "
                    "continue it with the same settings, or choose another --results",
                )
        done = int(latest.rpartition("-")[2])
        if done > steps:
            raise LabError(
                f"{self.directory} holds a checkpoint of step {done}, this run would end at step {steps}: "
                "train longer (--epochs, --steps), or choose another --results",
            )
        self.manager.checkpoint.restore(latest).assert_existing_objects_matched()
        history: dict[str, Any] = run["history"]
        return history
