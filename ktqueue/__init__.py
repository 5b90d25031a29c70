"""ktqueue: an inference job service. SQL remembers, Redis orders, Celery runs, the engine batches."""

__version__ = "0.1.0"
