"""All tables of the first version"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "apps",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=False),
        sa.Column("stopped_at", sa.Float(), nullable=True),
        sa.Column("stop_reason", sa.String(), nullable=True),
        sa.Column("client_version", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("app_id"),
    )
    with op.batch_alter_table("apps", schema=None) as batch_op:
        batch_op.create_index("apps_by_name", ["environment_id", "name"], unique=False)

    op.create_table(
        "calls",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("function_id", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("invocation", sa.Integer(), nullable=False),
        sa.Column("parent_input_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("cancelled_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("call_id"),
    )
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.create_index("calls_by_function", ["function_id", "created_at"], unique=False)
        batch_op.create_index("calls_by_parent", ["parent_input_id"], unique=False)

    op.create_table(
        "autoscalers",
        sa.Column("function_id", sa.String(), nullable=False),
        sa.Column("definition_id", sa.String(), nullable=False),
        sa.Column("configuration", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("function_id"),
    )
    op.create_table(
        "classes",
        sa.Column("class_id", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("class_id"),
    )
    with op.batch_alter_table("classes", schema=None) as batch_op:
        batch_op.create_index("classes_by_app", ["app_id"], unique=False)

    op.create_table(
        "data_chunks",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("chunk_index", sa.Integer(), nullable=False),
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "chunk_index"),
    )
    op.create_table(
        "definitions",
        sa.Column("definition_id", sa.String(), nullable=False),
        sa.Column("function_id", sa.String(), nullable=False),
        sa.Column("function", sa.LargeBinary(), nullable=False),
        sa.Column("alternatives", sa.LargeBinary(), nullable=True),
        sa.Column("schedule", sa.LargeBinary(), nullable=True),
        sa.Column("client_version", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("definition_id"),
    )
    with op.batch_alter_table("definitions", schema=None) as batch_op:
        batch_op.create_index("definitions_by_function", ["function_id"], unique=False)

    op.create_table(
        "deployments",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deployed_at", sa.Float(), nullable=False),
        sa.Column("deployed_by", sa.String(), nullable=False),
        sa.Column("client_version", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("commit_info", sa.LargeBinary(), nullable=True),
        sa.Column("rollback_version", sa.Integer(), nullable=True),
        sa.Column("function_ids", sa.JSON(), nullable=False),
        sa.Column("class_ids", sa.JSON(), nullable=False),
        sa.Column("definition_ids", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("app_id", "version"),
    )
    op.create_table(
        "dict_entries",
        sa.Column("dict_id", sa.String(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("dict_id", "key"),
    )
    op.create_table(
        "dicts",
        sa.Column("dict_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("app_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("dict_id"),
    )
    with op.batch_alter_table("dicts", schema=None) as batch_op:
        batch_op.create_index("dicts_by_name", ["environment_id", "name"], unique=True)

    op.create_table(
        "environments",
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("web_suffix", sa.String(), nullable=False),
        sa.Column("is_default", sa.Integer(), nullable=False),
        sa.Column("image_builder_version", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("environment_id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "functions",
        sa.Column("function_id", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("handle", sa.LargeBinary(), nullable=False),
        sa.Column("definition_id", sa.String(), nullable=True),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("params", sa.LargeBinary(), nullable=True),
        sa.Column("options", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("function_id"),
    )
    with op.batch_alter_table("functions", schema=None) as batch_op:
        batch_op.create_index("functions_by_app", ["app_id", "tag"], unique=False)

    op.create_table(
        "image_logs",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("file_descriptor", sa.Integer(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "seq"),
    )
    op.create_table(
        "images",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("definition", sa.LargeBinary(), nullable=False),
        sa.Column("builder_version", sa.String(), nullable=False),
        sa.Column("client_version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("layers", sa.JSON(), nullable=False),
        sa.Column("config", sa.LargeBinary(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("image_id"),
    )
    op.create_table(
        "inputs",
        sa.Column("input_id", sa.String(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("retry_count", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("input_id"),
        sa.UniqueConstraint("call_id", "idx", name="inputs_once"),
    )
    with op.batch_alter_table("inputs", schema=None) as batch_op:
        batch_op.create_index("inputs_unfinished", ["state", "call_id"], unique=False)

    op.create_table(
        "layouts",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("function_ids", sa.JSON(), nullable=False),
        sa.Column("class_ids", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("app_id"),
    )
    op.create_table(
        "image_names",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("revision_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("published_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    with op.batch_alter_table("image_names", schema=None) as batch_op:
        batch_op.create_index("image_names_by_tag", ["environment_id", "tag", "seq"], unique=False)

    op.create_table(
        "mounts",
        sa.Column("mount_id", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("files", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("environment_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("mount_id"),
    )
    with op.batch_alter_table("mounts", schema=None) as batch_op:
        batch_op.create_index("mounts_by_name", ["name"], unique=False)

    op.create_table(
        "outputs",
        sa.Column("input_id", sa.String(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("item", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("input_id"),
    )
    with op.batch_alter_table("outputs", schema=None) as batch_op:
        batch_op.create_index("outputs_by_age", ["created_at"], unique=False)
        batch_op.create_index("outputs_by_call", ["call_id", "seq"], unique=False)

    op.create_table(
        "queue_items",
        sa.Column("item_seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("queue_id", sa.String(), nullable=False),
        sa.Column("partition", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("item_seq"),
    )
    with op.batch_alter_table("queue_items", schema=None) as batch_op:
        batch_op.create_index("queue_items_in_order", ["queue_id", "partition", "item_seq"], unique=False)

    op.create_table(
        "queues",
        sa.Column("queue_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("app_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("queue_id"),
    )
    with op.batch_alter_table("queues", schema=None) as batch_op:
        batch_op.create_index("queues_by_name", ["environment_id", "name"], unique=True)

    op.create_table(
        "network_file_systems",
        sa.Column("file_system_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("file_system_id"),
    )
    with op.batch_alter_table("network_file_systems", schema=None) as batch_op:
        batch_op.create_index("network_file_systems_by_name", ["environment_id", "name"], unique=True)

    op.create_table(
        "replies",
        sa.Column("request_key", sa.String(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("request_key"),
    )
    with op.batch_alter_table("replies", schema=None) as batch_op:
        batch_op.create_index("replies_by_age", ["at"], unique=False)

    op.create_table(
        "secrets",
        sa.Column("secret_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("app_id", sa.String(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("last_used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("secret_id"),
    )
    with op.batch_alter_table("secrets", schema=None) as batch_op:
        batch_op.create_index("secrets_by_name", ["environment_id", "name"], unique=True)

    op.create_table(
        "schedules",
        sa.Column("function_id", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("definition_id", sa.String(), nullable=False),
        sa.Column("schedule", sa.LargeBinary(), nullable=False),
        sa.Column("next_due", sa.Float(), nullable=True),
        sa.Column("missed", sa.Integer(), nullable=False),
        sa.Column("last_due", sa.Float(), nullable=True),
        sa.Column("last_call_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("function_id"),
    )
    with op.batch_alter_table("schedules", schema=None) as batch_op:
        batch_op.create_index("schedules_by_app", ["app_id"], unique=False)

    op.create_table(
        "tasks",
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("function_id", sa.String(), nullable=False),
        sa.Column("definition_id", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ready_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=True),
        sa.Column("milli_cpu", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("gpu_uuids", sa.JSON(), nullable=False),
        sa.Column("cpu_seconds", sa.Float(), nullable=True),
        sa.Column("peak_memory_bytes", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("task_id"),
    )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.create_index("tasks_by_app", ["app_id", "created_at"], unique=False)
        batch_op.create_index("tasks_unfinished", ["finished_at"], unique=False)

    op.create_table(
        "tokens",
        sa.Column("token_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("last_used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("token_id"),
    )

    op.create_table(
        "webhook_deliveries",
        sa.Column("delivery_id", sa.String(), nullable=False),
        sa.Column("webhook_id", sa.String(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("give_up_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("delivery_id"),
    )
    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.create_index("webhook_deliveries_by_age", ["created_at"], unique=False)
        batch_op.create_index("webhook_deliveries_by_call", ["call_id"], unique=False)
        batch_op.create_index("webhook_deliveries_due", ["state", "due_at"], unique=False)

    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("function", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("gone_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("webhook_id"),
    )

    op.create_table(
        "web_names",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("is_domain", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("function_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    with op.batch_alter_table("web_names", schema=None) as batch_op:
        batch_op.create_index("web_names_by_app", ["app_id"], unique=False)

    op.create_table(
        "tunnels",
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("h2", sa.Integer(), nullable=False),
        sa.Column("raw_port", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("label"),
    )
    op.create_table(
        "proxy_tokens",
        sa.Column("token_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("scoped", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("token_id"),
    )
    op.create_table(
        "proxy_token_environments",
        sa.Column("token_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", "environment_id"),
    )
    op.create_table(
        "volumes",
        sa.Column("volume_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("commits", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("volume_id"),
    )
    with op.batch_alter_table("volumes", schema=None) as batch_op:
        batch_op.create_index("volumes_by_name", ["environment_id", "name"], unique=True)
    op.create_table(
        "cordons",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the copy that was made before the upgrade")
