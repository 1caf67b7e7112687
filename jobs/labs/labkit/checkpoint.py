"""Checkpoints of one run: everything that training needs to go on, written by rank 0."""

import json
from pathlib import Path
from typing import Any

from labs.labkit import LabError
from labs.labkit.lazy import tf
from labs.labkit.result import write_json

KEEP = 2


class Checkpoints:
    """Checkpoints in *directory*, of the run that *settings* describe; *state* is what TensorFlow saves.

    Beside TensorFlow's files lies run.json: the settings, which a continued run must share, and the
    history that belongs in its curves. Data order and dropout follow from the step: no more is needed.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], **state: Any) -> None:
        self.file = directory / "run.json"
        self.settings = settings
        self.manager = tf.train.CheckpointManager(tf.train.Checkpoint(**state), str(directory), KEEP)

    def save(self, step: int, history: dict[str, Any]) -> None:
        """Write a checkpoint of *step*; the former one stays valid until this one is complete."""
        write_json(self.file, {"settings": self.settings, "history": history})
        self.manager.save(checkpoint_number=step)

    def restore(self) -> dict[str, Any] | None:
        """Load the latest checkpoint into the state and return its history; None where there is none.

        Raises:
            LabError: the checkpoint is of another lab or of other settings.
        """
        latest = self.manager.latest_checkpoint
        if latest is None:
            return None
        run = json.loads(self.file.read_text())
        for key, value in self.settings.items():
            found = run["settings"].get(key)
            if found != value:
                raise LabError(
                    f"{self.file.parent} holds a checkpoint with {key} {found}, this run has {value}: "
                    "continue it with the same settings, or choose another --results",
                )
        self.manager.checkpoint.restore(latest).assert_existing_objects_matched()
        history: dict[str, Any] = run["history"]
        return history
