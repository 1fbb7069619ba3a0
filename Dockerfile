# Everything the rules run in one image, with torch for the CPU or for NVIDIA GPUs:
#   docker build --tag reaction:0.1.0 .
#   docker build --tag reaction:0.1.0 --build-arg DEVICE=cuda .
ARG DEVICE=cpu

FROM python:3.11-slim-bookworm AS base
# bsdtar for rar archives; git for the commit in provenance.json. Debian drops old versions, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libarchive-tools \
    && rm -rf /var/lib/apt/lists/*

# The lock file's torch is the CPU build where this index is asked as well. PyPI's is the CUDA build, which brings its
# own libraries: the host has the driver, and these variables let its container runtime in.
FROM base AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# What `make` does; the compiler is for the flow kernel and stays behind here. Without the kernel there is no image.
FROM ${DEVICE} AS build
WORKDIR /opt/reaction
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --requirement requirements.lock
COPY pyproject.toml CMakeLists.txt README.md ./
COPY src ./src
RUN .venv/bin/python -m pip install --no-cache-dir --no-build-isolation --no-deps . \
    && .venv/bin/reaction check \
    && .venv/bin/python -c "import reaction.flow._tvl1"

FROM ${DEVICE}
WORKDIR /opt/reaction
COPY --from=build /opt/reaction/.venv ./.venv
ENV PATH=/opt/reaction/.venv/bin:$PATH
