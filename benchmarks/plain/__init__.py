"""The baseline: the job service one writes first, with Flask, Celery and SQLAlchemy, and written well.

A job is one row and one Celery message, acknowledged late. The request commits the row, then sends the message; the
task loads the row, does the work, and commits the result. Each job so costs two transactions and one message.
"""
