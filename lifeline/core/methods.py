"""The methods of the wire contract, and whom each is for: a closed list.

A method that is not in it counts as an operators' one, so that nothing is open because it was forgotten.
"""

from enum import Enum

from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2


class Audience(Enum):
    """Whom a method is for."""

    USERS = "users"
    """Reads and scores of one user, and reflection: what ``*`` gives."""
    NODES = "nodes"
    """What nodes of a group ask each other."""
    OPERATORS = "operators"
    """What changes a node, or tells about it and its group."""


ALL_USER_METHODS = "*"
DESCRIPTORS = (
    sequence_pb2.DESCRIPTOR.services_by_name["SequenceService"],
    score_pb2.DESCRIPTOR.services_by_name["ScoreService"],
    model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    operator_pb2.DESCRIPTOR.services_by_name["OperatorService"],
)
"""The services of a node."""
AUDIENCES = {
    "GetSequence": Audience.USERS,
    "Score": Audience.USERS,
    "ServerReflectionInfo": Audience.USERS,
    "ListFingerprints": Audience.NODES,
    "ListPartitions": Audience.OPERATORS,
    "CreateSnapshot": Audience.OPERATORS,
    "GetModel": Audience.OPERATORS,
    "UseModel": Audience.OPERATORS,
}
"""By the method's name without its service; no two services have a method of one name."""


def name_of(path: str) -> str:
    """Return the name without the service of ``/package.Service/Method``."""
    return path.rpartition("/")[2]


def audience_of(path: str) -> Audience:
    """Return whom ``/package.Service/Method`` is for."""
    return AUDIENCES.get(name_of(path), Audience.OPERATORS)
