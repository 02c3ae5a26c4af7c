"""The errors of the scorer. Each message ends with what to do."""

from lifeline.core.errors import ActionableError


class ScorerError(ActionableError):
    """The base class of all errors of the scorer."""


class ModelNotFoundError(ScorerError):
    """The models directory has no such model, or no such version of it.

    Operators: train one, or correct ``scorer.models_dir``, ``scorer.model`` and ``scorer.version``.
    """


class ModelExistsError(ScorerError):
    """The version exists already, and versions never change.

    Operators: save the new weights under another version.
    """


class ModelCorruptError(ScorerError):
    """The files of a version are damaged or incomplete.

    Operators: restore the version from a copy, or train again.
    """


class ModelMismatchError(ScorerError):
    """The model was trained for another vocabulary than this node's.

    Operators: train with this vocabulary, or configure the model's vocabulary.
    """


class CheckpointError(ScorerError):
    """A checkpoint is damaged, or belongs to another run.

    Operators: resume with the settings and data of that run, or remove the checkpoint and train from the start.
    """


class KernelsError(ScorerError):
    """The requested kernels are not available on this machine.

    Operators: correct LIFELINE_KERNELS or unset it; install the package on a machine with a C++ compiler.
    """


class KernelInputError(ScorerError):
    """An array does not have the shape, dtype or range that the kernels read.

    Operators: if it is a tensor of a version, use another version. If it belongs to a request, report a bug.
    """


class RunCacheError(ScorerError):
    """A cached run of an evaluation cannot be read.

    Operators: remove the file; the run is then repeated.
    """


class ExperimentError(ScorerError):
    """There is no experiment to report on, or an arm has too few users yet.

    Operators: configure it (scorer.experiment, scorer.arms), or wait for more users.
    """


class SelectionRecordError(ScorerError):
    """A record of the selections topic cannot be used for training.

    Operators: check what publishes to the topic, or train a model with the selection settings of the logged one.
    """


class TrainingDataError(ScorerError):
    """The histories give no request to train on, or none to measure on.

    Operators: provide longer histories or their embeddings, or lower the settings that the message names.
    """


class PrecisionError(ScorerError):
    """The precisions of a model cannot be measured.

    Operators: follow the advice at the end of the message.
    """
