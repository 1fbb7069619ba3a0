# Everything the rules run in one image: docker build --tag reaction:0.1.0 .
FROM python:3.11-slim
WORKDIR /opt/reaction
COPY pyproject.toml requirements.lock README.md ./
COPY src ./src
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libarchive-tools \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --requirement requirements.lock \
    && pip install --no-cache-dir --no-deps .
