"""Settings of Kafka: the connection, the topics, the consumer group."""

import ssl
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lifeline.core.credentials import Password, password_text
from lifeline.core.limits import MAX_PARTITIONS

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,240}$")]


class KafkaSettings(BaseModel):
    """The connection to the cluster, the login and the topics; one object for all client libraries."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,), hide_input_in_errors=True)

    bootstrap_servers: Annotated[
        str, Field(pattern=r"^[^,\s]+:\d{1,5}(\s*,\s*[^,\s]+:\d{1,5})*$", description="host:port, comma-separated")
    ] = "127.0.0.1:9092"
    client_id: Annotated[str, Field(min_length=1, description="name in the broker's logs and quotas")] = "lifeline"
    group_id: Annotated[str, Field(min_length=1, description="consumer group that the nodes share")] = "lifeline"
    group_instance_id: Annotated[
        str | None,
        Field(
            min_length=1,
            description="static group member: a restart within the session timeout moves no partition",
        ),
    ] = None
    session_timeout_ms: Annotated[
        int, Field(ge=1_000, le=1_800_000, description="time without a heartbeat after which the group removes a node")
    ] = 10_000
    rebalance_timeout_ms: Annotated[
        int,
        Field(ge=1_000, le=1_800_000, description="how long a rebalance waits for a node to give up its partitions"),
    ] = 60_000
    max_poll_interval_ms: Annotated[
        int, Field(ge=1_000, le=3_600_000, description="a node that reads no record for so long leaves the group")
    ] = 300_000
    connect_timeout_ms: Annotated[
        int, Field(ge=0, le=600_000, description="how long to wait for a cluster that is unreachable")
    ] = 10_000
    request_timeout_ms: Annotated[
        int, Field(ge=1_000, le=600_000, description="timeout of a request to the cluster, retries included")
    ] = 30_000

    actions_topic: Annotated[TopicName, Field(description="the log of actions; key = user id")] = "actions"
    items_topic: Annotated[TopicName, Field(description="compacted embeddings; key = item id")] = "items"
    dead_letter_suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,9}$")] = "-dlq"
    dead_letter_retention_days: Annotated[
        int, Field(ge=1, le=3_650, description="how long dead letters, and the user data in them, are kept")
    ] = 30
    selections_topic: Annotated[TopicName, Field(description="model inputs of a share of requests; key = user id")] = (
        "selections"
    )
    exposures_topic: Annotated[
        TopicName, Field(description="which experiment arm served which user; key = user id")
    ] = "exposures"
    side_retention_days: Annotated[
        int, Field(ge=1, le=3_650, description="how long records of these two topics are kept")
    ] = 30
    partitions: Annotated[
        int, Field(ge=1, le=MAX_PARTITIONS, description="partitions of the actions topic and its dead-letter topic")
    ] = 4
    items_partitions: Annotated[int, Field(ge=1, le=4_096, description="partitions of the items topic")] = 4
    replication_factor: Annotated[int, Field(ge=1, le=15, description="replicas of each topic")] = 1

    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"],
        Field(description="compression of the producer's batches"),
    ] = "none"

    security_protocol: SecurityProtocol = "PLAINTEXT"
    ssl_ca_file: Annotated[str | None, Field(description="PEM; default: the system's CAs")] = None
    ssl_cert_file: Annotated[str | None, Field(description="PEM: the client's certificate")] = None
    ssl_key_file: Annotated[str | None, Field(description="PEM: the client's private key")] = None
    ssl_key_password: Password = None
    ssl_check_hostname: bool = True
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: Annotated[str | None, AfterValidator(lambda name: name and password_text(name))] = None
    sasl_password: Password = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.uses_sasl and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError(
                f"{self.security_protocol} needs a login: set sasl_mechanism, sasl_username and sasl_password"
            )
        if self.ssl_key_file and not self.ssl_cert_file:
            raise ValueError("ssl_key_file is set without a certificate: set ssl_cert_file too")
        topics = (self.actions_topic, self.items_topic, self.selections_topic, self.exposures_topic)
        if len(set(topics)) < len(topics):
            raise ValueError(f"two of the topics {', '.join(topics)} are the same: give each a name of its own")
        if self.uses_ssl:
            self._make_ssl_context()
        return self

    @property
    def dead_letter_topic(self) -> str:
        """The topic for the dead letters of the actions topic."""
        return self.actions_topic + self.dead_letter_suffix

    @property
    def servers(self) -> list[str]:
        """The bootstrap servers, one ``host:port`` each."""
        return [server.strip() for server in self.bootstrap_servers.split(",") if server.strip()]

    @property
    def uses_ssl(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def uses_sasl(self) -> bool:
        """Whether connections authenticate with SASL."""
        return self.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}

    @cached_property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context that all clients share; None without TLS. Raises ValueError if a file cannot be loaded."""
        return self._make_ssl_context() if self.uses_ssl else None

    def _make_ssl_context(self) -> ssl.SSLContext:
        for name in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise ValueError(f"kafka.{name} names {path}, which does not exist: correct the path")
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
        except OSError as error:
            raise ValueError(
                f"kafka.ssl_ca_file {self.ssl_ca_file} cannot be loaded ({error}): use certificates in PEM"
            ) from error
        context.check_hostname = self.ssl_check_hostname
        if self.ssl_cert_file:
            # With None the library would prompt for a password on the terminal.
            password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else ""
            try:
                context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file, password)
            except OSError as error:
                key = f" with kafka.ssl_key_file {self.ssl_key_file}" if self.ssl_key_file else ""
                raise ValueError(
                    f"kafka.ssl_cert_file {self.ssl_cert_file}{key} cannot be loaded ({error}): use a certificate "
                    "and its key in PEM, and set kafka.ssl_key_password if the key is encrypted"
                ) from error
        return context

    def client_options(self) -> dict[str, Any]:
        """Return the connection's keyword arguments; kafka-python and aiokafka use the same names."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
        }
        if self.uses_ssl:
            options["ssl_context"] = self.ssl_context
        if self.uses_sasl and self.sasl_password is not None:
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password.get_secret_value(),
            }
        return options

    def consumer_options(self) -> dict[str, Any]:
        """Return aiokafka's keyword arguments for readers of the log, so that all see the same records."""
        return self.client_options() | {
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "request_timeout_ms": self.request_timeout_ms,
        }
