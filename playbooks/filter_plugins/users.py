"""Refuse accounts that cannot be."""

import re
from datetime import datetime
from typing import Any

SYSTEM = {"root", "slurm", "munge", "mysql"}  # accounts that the roles' own daemons run under
USERS = 1000  # uids below are the distribution's


def _is_date(text: str) -> bool:
    try:
        return bool(datetime.strptime(text, "%Y-%m-%d"))  # noqa: DTZ007 - a day, not a time
    except ValueError:
        return False


def account_refusals(accounts: list[dict[str, Any]]) -> list[str]:
    """Say which accounts have no proper name, share name or uid, or take one of the system's uids."""
    said = [
        f"users_accounts has the name {name!r}, but a login name consists of small letters, digits, _ and -. "
        "Put for instance student1."
        for account in accounts
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name := str(account.get("name")))
    ]
    said += [
        f"users_accounts has {name}, which is the system's: its files would change hands. Give another name."
        for name in sorted(SYSTEM & {str(account.get("name")) for account in accounts})
    ]
    said += [
        f"Account {account.get('name')} expires {account['expires']!r}, which is no date. Put the day from "
        'which it is closed, for instance expires: "2027-02-13"'
        for account in accounts
        if not _is_date(str(account.get("expires", "2027-02-13")))
    ]
    for key in ("name", "uid"):
        values = [account.get(key) for account in accounts]
        said += [
            f"users_accounts has the {key} {value!r} more than once. Give each account its own."
            for value in dict.fromkeys(value for value in values if values.count(value) > 1)
        ]
    said += [
        f"Account {account.get('name')} has uid {uid}, but below {USERS} they are the system's."
        for account in accounts
        if str(uid := account.get("uid", USERS)).isdigit() and int(uid) < USERS
    ]
    return said


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {"account_refusals": account_refusals}
