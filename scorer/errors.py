"""What the scorer raises. Each message ends in what to do."""

from lifeline.core.errors import ActionableError


class ScorerError(ActionableError):
    """Anything the scorer refuses or cannot do."""


class ModelNotFoundError(ScorerError):
    """There is no such model, or no version of it.

    Operators: train one, or correct ``scorer.models_dir``, ``scorer.model`` and ``scorer.version``.
    """


class ModelExistsError(ScorerError):
    """The version is there already, and versions never change.

    Operators: give the new weights a version of their own.
    """


class ModelCorruptError(ScorerError):
    """The files of a version are not what was saved.

    Operators: put the version back from a copy, or train again.
    """


class ModelMismatchError(ScorerError):
    """The model was trained for another vocabulary than this node's.

    Operators: train with this vocabulary, or give the node the model's.
    """


class CheckpointError(ScorerError):
    """A checkpoint is damaged, or of another run.

    Operators: resume with what the run began with, or remove the checkpoint and train from the start.
    """


class KernelsError(ScorerError):
    """The kernels that were asked for cannot be had.

    Operators: correct LIFELINE_KERNELS, or leave it unset; build the package where there is a C++ compiler.
    """


class KernelInputError(ScorerError):
    """An array has another shape, dtype or range than the kernels read.

    Operators: of a version's tensors, use another version. Of a request's, it is a fault of the program: report it.
    """


class KeptRunError(ScorerError):
    """A run that an evaluation kept cannot be read.

    Operators: remove the file, and the run is made again.
    """


class ExperimentError(ScorerError):
    """There is no experiment to report on, or too little of it yet.

    Operators: configure it (scorer.experiment, scorer.arms), or wait for more users.
    """


class SelectionRecordError(ScorerError):
    """A record of the selections topic cannot be trained from.

    Operators: see what publishes to the topic, or train a model that selects as the logged one did.
    """


class TrainingDataError(ScorerError):
    """The histories give no request to learn from, or none to measure on.

    Operators: give longer histories, or their embeddings, or lower the settings that the message names.
    """


class PrecisionError(ScorerError):
    """A model's precisions cannot be measured.

    Operators: do what the message ends in.
    """
