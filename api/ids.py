"""The ids of things in paths and parameters. What does not look like one is not looked for."""

from __future__ import annotations

import re

from ktqueue.errors import NotFound

JOB_ID = re.compile(r"job_[0-9a-f]{32}")
ENDPOINT_ID = re.compile(r"whe_[0-9a-f]{32}")
KEY_ID = re.compile(r"key_[0-9a-f]{32}")
DELIVERY_ID = re.compile(r"dlv_[1-9][0-9]{0,17}")


def checked_job(job_id: str) -> str:
    """The id of a job, as far as one can tell. Raises NotFound."""
    if not JOB_ID.fullmatch(job_id):
        raise NotFound("there is no such job: an id is job_ and 32 hexadecimal digits")
    return job_id


def checked_endpoint(endpoint_id: str) -> str:
    """The id of a webhook endpoint, as far as one can tell. Raises NotFound."""
    if not ENDPOINT_ID.fullmatch(endpoint_id):
        raise NotFound("there is no such webhook endpoint: an id is whe_ and 32 hexadecimal digits")
    return endpoint_id


def checked_key(key_id: str) -> str:
    """The id of a key, as far as one can tell. Raises NotFound."""
    if not KEY_ID.fullmatch(key_id):
        raise NotFound("there is no such key: an id is key_ and 32 hexadecimal digits")
    return key_id


def checked_delivery(delivery_id: str) -> int:
    """The number in the id of a delivery. Raises NotFound."""
    if not DELIVERY_ID.fullmatch(delivery_id):
        raise NotFound("there is no such delivery: an id is dlv_ and a number")
    return delivery_number(delivery_id)


def delivery_id(number: int) -> str:
    """The id of a delivery as clients see it."""
    return f"dlv_{number}"


def delivery_number(identity: str) -> int:
    """What `delivery_id` was made of."""
    return int(identity.removeprefix("dlv_"))
