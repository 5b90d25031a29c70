"""SQL for the store and the outbox alike: the tables, the connections, the two dialects."""
