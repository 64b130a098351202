"""Which errors of a database's driver say that the database is away, and which that something is wrong."""

import re
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin, Engine, ExceptionContext

from tinysweep.errors import OutageError, first_line

PLUGIN = "tinysweep_outages"
# By the low byte of SQLite's codes: busy, locked, no memory, input or output, full, can't open, lock protocol.
_SQLITE = {5, 6, 7, 10, 13, 14, 15}
# Of MySQL and MariaDB: too many connections, disk or table full, out of memory, shutting down, network errors,
# lock waits and deadlocks, read-only for a failover, killed; from 2000 on those of a client that finds no server.
_MYSQL = {
    1021, 1037, 1038, 1040, 1041, 1053, 1077, 1079, 1114, 1152, 1158, 1159, 1160, 1161, 1180, 1184, 1205, 1213,
    1290, 1317, 1836, 1927, 2002, 2003, 2005, 2006, 2013, 2014, 2055, 4031,
}  # fmt: skip
# Of PostgreSQL: a lost connection, deadlocks, resources used up (a disk, connections), an operator's intervention
# such as a restart, errors of the system; a lock that isn't free, and a server that is read-only for a failover.
_POSTGRESQL = re.compile("08|40|53|57|58|55P03|25006")
# What a server says when it doesn't let one in; it gives no code to a driver that isn't connected.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|permission denied|"
    r"not permitted to log in|invalid (dsn|connection option|port|value)|certificate|root\.crt",
    re.IGNORECASE,
)


class Outages(CreateEnginePlugin):  # type: ignore[misc]  # SQLAlchemy's types aren't read
    """Lets an engine raise an OutageError for what is one, so that Optuna takes it for no mistake of its own:
    it would create a trial again at once, and read all trials anew."""

    def update_url(self, url: URL) -> URL:
        return url

    def engine_created(self, engine: Engine) -> None:
        event.listen(engine, "handle_error", _translate)


plugins.register(PLUGIN, __name__, Outages.__name__)


def _translate(context: ExceptionContext) -> OutageError | None:
    if context.is_pre_ping or not _is_away(context):  # a connection that turns out to be dead is replaced
        return None
    return OutageError(first_line(context.original_exception) or type(context.original_exception).__name__)


def _is_away(context: ExceptionContext) -> bool:
    error: Any = context.original_exception
    if context.is_disconnect:
        return True
    if context.dialect.name == "sqlite":
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE
    if context.dialect.name == "postgresql":
        code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
        if code:
            return bool(_POSTGRESQL.match(code))
        not_connected = context.connection is None and isinstance(error, context.dialect.dbapi.OperationalError)
        return not_connected and not _REFUSED.search(str(error))
    return next(iter(error.args), None) in _MYSQL
