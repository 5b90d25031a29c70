"""What the API needs of the wired use cases; `ktqueue.bootstrap.Services` has it, and so have the tests' fakes."""

from __future__ import annotations

from typing import Protocol

from ktqueue.access import Access
from ktqueue.following import Following
from ktqueue.intake import Intake
from ktqueue.keys import Keys
from ktqueue.models import Catalogue
from ktqueue.operating import Operating
from ktqueue.quotas import Quotas
from ktqueue.settings import Settings
from ktqueue.webhooks import Webhooks


class ApiServices(Protocol):
    """Read-only: settings, the catalogue, and the use cases clients may reach."""

    @property
    def settings(self) -> Settings:
        """Limits on bodies, waits and bulk submits."""

    @property
    def access(self) -> Access:
        """Who sends a request."""

    @property
    def keys(self) -> Keys:
        """Make, see, limit, revoke and rotate keys."""

    @property
    def quotas(self) -> Quotas:
        """Count requests."""

    @property
    def catalogue(self) -> Catalogue:
        """The models there are."""

    @property
    def intake(self) -> Intake:
        """Submit, look, cancel, retry, delete."""

    @property
    def operating(self) -> Operating:
        """Pause, resume, drain, bound and purge lanes."""

    @property
    def following(self) -> Following:
        """Wait for a job, follow its events."""

    @property
    def webhooks(self) -> Webhooks:
        """Check a job's webhook, register endpoints, look at deliveries and send them again."""
