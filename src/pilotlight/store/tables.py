"""All tables, as SQLAlchemy Core sees them. The migrations create them; a test compares the two.

Times are seconds since the epoch, UTC. Protocol messages are kept as their serialized bytes where nothing queries inside them.
"""

from sqlalchemy import JSON, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

metadata = MetaData()

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("secret_hash", String, nullable=False),  # SHA-256, hex: the secret has 131 random bits, so no slow hash is needed
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("last_used_at", Float),
)

environments = Table(
    "environments",
    metadata,
    Column("environment_id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("web_suffix", String, nullable=False),
    Column("is_default", Integer, nullable=False),
    Column("image_builder_version", String),
    Column("created_at", Float, nullable=False),
)

apps = Table(
    "apps",
    metadata,
    Column("app_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("name", String),  # of a deployment; unique among the apps that are not stopped
    Column("description", String, nullable=False),
    Column("state", Integer, nullable=False),  # modal.client.AppState
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    Column("stopped_at", Float),
    Column("stop_reason", String),
    Column("client_version", String, nullable=False),
    Column("version", Integer, nullable=False),  # of the current deployment, from 1; 0: never deployed
    Index("apps_by_name", "environment_id", "name"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("app_id", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("deployed_at", Float, nullable=False),
    Column("deployed_by", String, nullable=False),
    Column("client_version", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("commit_info", LargeBinary),
    Column("rollback_version", Integer),
    Column("function_ids", JSON, nullable=False),  # tag → function id
    Column("class_ids", JSON, nullable=False),
    Column("definition_ids", JSON, nullable=False),  # function id → definition id
)

functions = Table(
    "functions",
    metadata,
    Column("function_id", String, primary_key=True),
    Column("app_id", String, nullable=False),
    Column("tag", String, nullable=False),  # name within the app: "fn", "Cls.*"
    Column("handle", LargeBinary, nullable=False),  # FunctionHandleMetadata known from FunctionPrecreate on
    Column("definition_id", String),  # the live one; None until the app is published
    Column("parent_id", String),  # of a bound function (class parameters, options): the function it was bound from
    Column("params", LargeBinary),
    Column("options", LargeBinary),  # FunctionOptions
    Column("created_at", Float, nullable=False),
    Index("functions_by_app", "app_id", "tag"),
)

definitions = Table(
    "definitions",
    metadata,
    Column("definition_id", String, primary_key=True),
    Column("function_id", String, nullable=False),
    Column("function", LargeBinary, nullable=False),  # modal.client.Function, the highest ranked one
    Column("alternatives", LargeBinary),  # modal.client.FunctionData: resources of those ranked below it; None for none
    Column("schedule", LargeBinary),
    Column("client_version", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("definitions_by_function", "function_id"),
)

schedules = Table(
    "schedules",  # of the functions of deployed apps
    metadata,
    Column("function_id", String, primary_key=True),
    Column("app_id", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("definition_id", String, nullable=False),
    Column("schedule", LargeBinary, nullable=False),  # modal.client.Schedule
    Column("next_due", Float),  # None: there is no further time
    Column("missed", Integer, nullable=False),  # due times that passed while the platform was down
    Column("last_due", Float),
    Column("last_call_id", String),
    Index("schedules_by_app", "app_id"),
)

autoscalers = Table(
    "autoscalers",  # what was changed of a function's settings since its deployment
    metadata,
    Column("function_id", String, primary_key=True),
    Column("definition_id", String, nullable=False),  # which was live then: the next one has its own settings again
    Column("configuration", LargeBinary, nullable=False),  # modal.client.AutoscalerConfiguration
)

classes = Table(
    "classes",
    metadata,
    Column("class_id", String, primary_key=True),
    Column("app_id", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("classes_by_app", "app_id"),
)

layouts = Table(
    "layouts",  # what an app consists of, by its last AppPublish
    metadata,
    Column("app_id", String, primary_key=True),
    Column("function_ids", JSON, nullable=False),  # tag → id
    Column("class_ids", JSON, nullable=False),  # tag → id; the class "Model" has the service function "Model.*"
)

images = Table(
    "images",
    metadata,
    Column("image_id", String, primary_key=True),
    Column("definition", LargeBinary, nullable=False),  # modal.client.Image
    Column("builder_version", String, nullable=False),
    Column("client_version", String, nullable=False),
    Column("state", String, nullable=False),  # core.images.ImageState
    Column("error", String),
    Column("layers", JSON, nullable=False),
    Column("config", LargeBinary, nullable=False),  # pilotlight ImageConfig
    Column("metadata", LargeBinary, nullable=False),  # modal.client.ImageMetadata
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("used_at", Float),  # when it was last asked for, to about an hour; None: not since it was made
)

image_logs = Table(
    "image_logs",
    metadata,
    Column("image_id", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("file_descriptor", Integer, nullable=False),
    Column("data", String, nullable=False),
    Column("at", Float, nullable=False),
)

image_names = Table(
    "image_names",  # publications of images under names: the newest of a name is what it means
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("revision_id", String, nullable=False),
    Column("environment_id", String, nullable=False),
    Column("tag", String, nullable=False),  # "name:tag"
    Column("image_id", String, nullable=False),
    Column("published_by", String, nullable=False),  # a token, or a task
    Column("created_at", Float, nullable=False),
    Index("image_names_by_tag", "environment_id", "tag", "seq"),
)

mounts = Table(
    "mounts",
    metadata,
    Column("mount_id", String, primary_key=True),
    Column("content_hash", String, nullable=False),
    Column("files", LargeBinary, nullable=False),  # pilotlight Mount
    Column("name", String),  # of a deployed or global mount
    Column("environment_id", String),  # None: global
    Column("created_at", Float, nullable=False),
    Index("mounts_by_name", "name"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("secret_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("name", String),  # None: owned by an app or a client
    Column("app_id", String),
    Column("sealed", LargeBinary, nullable=False),  # AES-GCM over the JSON of the variables
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("last_used_at", Float),
    Index("secrets_by_name", "environment_id", "name", unique=True),
)

dicts = Table(
    "dicts",
    metadata,
    Column("dict_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("name", String),  # None: ephemeral or owned by an app
    Column("app_id", String),
    Column("created_at", Float, nullable=False),
    Column("heartbeat_at", Float),  # of an ephemeral one
    Index("dicts_by_name", "environment_id", "name", unique=True),
)

dict_entries = Table(
    "dict_entries",
    metadata,
    Column("dict_id", String, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("used_at", Float, nullable=False),
)

queues = Table(
    "queues",
    metadata,
    Column("queue_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("name", String),
    Column("app_id", String),
    Column("created_at", Float, nullable=False),
    Column("heartbeat_at", Float),
    Index("queues_by_name", "environment_id", "name", unique=True),
)

queue_items = Table(
    "queue_items",
    metadata,
    Column("item_seq", Integer, primary_key=True, autoincrement=True),
    Column("queue_id", String, nullable=False),
    Column("partition", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("queue_items_in_order", "queue_id", "partition", "item_seq"),
)

volumes = Table(
    "volumes",
    metadata,
    Column("volume_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("name", String),  # None: ephemeral
    Column("version", Integer, nullable=False),  # modal.client.VolumeFsVersion
    Column("commits", Integer, nullable=False),  # how often containers have said that their changes are to last
    Column("created_at", Float, nullable=False),
    Column("heartbeat_at", Float),
    Index("volumes_by_name", "environment_id", "name", unique=True),
)

network_file_systems = Table(
    "network_file_systems",  # names of older programs for volumes that have none
    metadata,
    Column("file_system_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("name", String),  # None: ephemeral
    Column("created_at", Float, nullable=False),
    Column("heartbeat_at", Float),
    Index("network_file_systems_by_name", "environment_id", "name", unique=True),
)

replies = Table(
    "replies",  # to requests that may be repeated and must not be done twice
    metadata,
    Column("request_key", String, primary_key=True),  # what was asked for, and the client's idempotency key
    Column("reply", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
    Index("replies_by_age", "at"),
)

calls = Table(
    "calls",
    metadata,
    Column("call_id", String, primary_key=True),
    Column("function_id", String, nullable=False),
    Column("app_id", String, nullable=False),
    Column("kind", Integer, nullable=False),  # modal.client.FunctionCallType
    Column("invocation", Integer, nullable=False),  # modal.client.FunctionCallInvocationType
    Column("parent_input_id", String),
    Column("created_at", Float, nullable=False),
    Column("cancelled_at", Float),
    Index("calls_by_function", "function_id", "created_at"),
    Index("calls_by_parent", "parent_input_id"),
)

inputs = Table(
    "inputs",
    metadata,
    Column("input_id", String, primary_key=True),
    Column("call_id", String, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("state", Integer, nullable=False),  # core.inputs.Recorded
    Column("payload", LargeBinary, nullable=False),  # modal.client.FunctionInput
    Column("retry_count", Integer, nullable=False),  # the user's attempts before this one
    Column("deaths", Integer, nullable=False),  # containers that died with it
    UniqueConstraint("call_id", "idx", name="inputs_once"),
    Index("inputs_unfinished", "state", "call_id"),
)

outputs = Table(
    "outputs",
    metadata,
    Column("input_id", String, primary_key=True),
    Column("call_id", String, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("seq", Integer, nullable=False),  # order of arrival within the call, from 1: the cursor of FunctionGetOutputs
    Column("item", LargeBinary, nullable=False),  # modal.client.FunctionGetOutputsItem
    Column("status", Integer, nullable=False),  # modal.client.GenericResult.GenericStatus
    Column("task_id", String),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),  # when a container began with the input; None: none did, or it is not known
    Index("outputs_by_call", "call_id", "seq"),
    Index("outputs_by_age", "created_at"),
)

data_chunks = Table(
    "data_chunks",  # what generators yield
    metadata,
    Column("call_id", String, primary_key=True),
    Column("chunk_index", Integer, primary_key=True),
    Column("chunk", LargeBinary, nullable=False),  # modal.client.DataChunk
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", String, primary_key=True),
    Column("environment_id", String, nullable=False),
    Column("app", String, nullable=False),  # name: it outlives deployments
    Column("function", String, nullable=False),  # "fn", "Cls", "Cls.method"; empty: all of the app
    Column("url", String, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # AES-GCM over the secret that signs
    Column("created_at", Float, nullable=False),
    Column("gone_at", Float),  # its receiver answered 410: nothing is sent there any more
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("delivery_id", String, primary_key=True),
    Column("webhook_id", String, nullable=False),
    Column("call_id", String, nullable=False),
    Column("state", String, nullable=False),  # core.webhooks.DeliveryState
    Column("event", String),  # core.webhooks.CallEnd; None until the body is written
    Column("body", LargeBinary),  # None: nothing was sent yet, and a call that goes on takes the delivery back
    Column("attempts", Integer, nullable=False),  # all that were ever made
    Column("tries", Integer, nullable=False),  # of these, since the delivery was last asked for
    Column("created_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("give_up_at", Float, nullable=False),
    Column("finished_at", Float),  # delivered, or given up
    Column("status", Integer),  # HTTP, of the last attempt; 0: no answer
    Column("problem", String),  # of the last attempt
    Index("webhook_deliveries_due", "state", "due_at"),
    Index("webhook_deliveries_by_call", "call_id"),
    Index("webhook_deliveries_by_age", "created_at"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", String, primary_key=True),
    Column("function_id", String, nullable=False),
    Column("definition_id", String, nullable=False),
    Column("app_id", String, nullable=False),
    Column("node_id", String, nullable=False),
    Column("state", String, nullable=False),  # core.tasks.TaskState
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ready_at", Float),
    Column("finished_at", Float),
    Column("exit_code", Integer),
    Column("reason", String),
    Column("message", String),
    Column("milli_cpu", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("gpu_uuids", JSON, nullable=False),
    Column("cpu_seconds", Float),
    Column("peak_memory_bytes", Integer),
    Index("tasks_by_app", "app_id", "created_at"),
    Index("tasks_unfinished", "finished_at"),
)

web_names = Table(
    "web_names",  # where web functions are served
    metadata,
    Column("name", String, primary_key=True),  # a label, or a domain of the user's own
    Column("is_domain", Integer, nullable=False),
    Column("label", String, nullable=False),  # of the endpoint: of a domain, the one that it stands for
    Column("app_id", String, nullable=False),
    Column("function_id", String, nullable=False),
    Index("web_names_by_app", "app_id"),
)

tunnels = Table(
    "tunnels",  # ports of containers that are open to the outside
    metadata,
    Column("label", String, primary_key=True),  # the first part of its host name
    Column("task_id", String, nullable=False),
    Column("port", Integer, nullable=False),  # in the container
    Column("h2", Integer, nullable=False),  # clients are offered HTTP/2
    Column("raw_port", Integer, nullable=False),  # of this machine, without TLS; 0: none
)

cordons = Table(
    "cordons",  # nodes that take nothing new
    metadata,
    Column("node_id", String, primary_key=True),
    Column("since", Float, nullable=False),
)

proxy_tokens = Table(
    "proxy_tokens",  # what HTTP clients show to functions that require it
    metadata,
    Column("token_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("secret_hash", String, nullable=False),  # as of tokens
    Column("scoped", Integer, nullable=False),  # valid in the environments of proxy_token_environments only
    Column("created_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
)

proxy_token_environments = Table(
    "proxy_token_environments",
    metadata,
    Column("token_id", String, primary_key=True),
    Column("environment_id", String, primary_key=True),
)

audit = Table(
    "audit",  # who changed what, or tried to
    metadata,
    Column("event_id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String, nullable=False),  # a token's id, a container's; empty: whoever owns the state, by the command line
    Column("address", String, nullable=False),  # of the other end; empty: this machine, or a container
    Column("action", String, nullable=False),  # name of the RPC
    Column("object", String, nullable=False),  # core.audit.object_of
    Column("outcome", String, nullable=False),  # "OK", or the name of a gRPC status
    Index("audit_by_age", "at"),
    sqlite_autoincrement=True,
)
