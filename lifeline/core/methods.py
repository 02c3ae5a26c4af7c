"""The methods of the wire contract, and the audience of each: a closed list.

A method that is missing from the list is for operators, so that a forgotten method is not open to everybody.
"""

from enum import Enum

from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2


class Audience(Enum):
    """Who may call a method."""

    USERS = "users"
    """Reads and scores of one user, and reflection: the methods that ``*`` permits."""
    NODES = "nodes"
    """Calls between the nodes of a group."""
    OPERATORS = "operators"
    """Changes to a node, and information about it and its group."""


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
"""By method name without service; method names are unique over all services."""


def name_of(path: str) -> str:
    """Return the method name of ``/package.Service/Method``."""
    return path.rpartition("/")[2]


def audience_of(path: str) -> Audience:
    """Return the audience of ``/package.Service/Method``."""
    return AUDIENCES.get(name_of(path), Audience.OPERATORS)
