"""What containers print lives in a database of its own, so that chatty programs never hold up the acknowledgement of a call."""

from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table

metadata = MetaData()

lines = Table(
    "lines",
    metadata,
    Column("line_id", Integer, primary_key=True, autoincrement=True),
    Column("app_id", String, nullable=False),
    Column("function_id", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("file_descriptor", Integer, nullable=False),  # modal.client.FileDescriptor
    Column("data", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("call_id", String, nullable=False),  # empty where the container worked on several calls, or on none
    Column("input_id", String, nullable=False),
    Column("root_id", String, nullable=False),  # the function from which this one was bound (parameters of a class), or empty
    Index("lines_by_app", "app_id", "line_id"),
    Index("lines_by_task", "task_id", "line_id"),
    Index("lines_by_call", "call_id", "line_id"),
    sqlite_autoincrement=True,
)

receipts = Table(
    "receipts",  # of each node: the last batch of lines that is on disk, so that none is taken twice
    metadata,
    Column("node_id", String, primary_key=True),
    Column("epoch", String, nullable=False),  # of the node's numbers
    Column("number", Integer, nullable=False),
)

web_requests = Table(
    "web_requests",  # that a modal.Server has answered, the newest of all
    metadata,
    Column("request_id", Integer, primary_key=True, autoincrement=True),
    Column("function_id", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("route", String, nullable=False),  # method and path
    Column("status", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Index("web_requests_by_function", "function_id", "at"),
    sqlite_autoincrement=True,
)

found = Table(
    "found",  # what containers that run have looked up by name in other environments, and the apps that they made
    metadata,
    Column("task_id", String, primary_key=True),
    Column("object_id", String, primary_key=True),
)
