"""When inputs started, beside their outputs: of outputs from before it stays unknown (they are kept for days only)"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outputs", sa.Column("started_at", sa.Float(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("restore the copy that was made before the upgrade")
