# The cloud: `cloud-server`. Beside the libraries it holds the reference model, 20 MB, as /models/llava
# and /models/bundle; a volume mounted at /models takes its place.
#
# What is installed is in docker/locks, with hashes; docs/supply-chain.md says what is pinned and what is
# not. torch is, in this order:
#   - the wheel of that version in the base image, where its pip has a folder of wheels (find-links);
#   - that of TORCH_LOCK, a file with hashes: PyPI's, with CUDA, unless another is given;
#   - with TORCH_LOCK=none what the indexes have of that version, such as a build for CPUs of
#     PIP_EXTRA_INDEX_URL, without a hash.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH_LOCK=docker/locks/torch.txt
ENV PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all:
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
# The libraries first: they stay as they are while only the code changes.
COPY constraints.txt ./
COPY docker/locks docker/locks
RUN if pip --python /opt/venv/bin/python install --no-index -c constraints.txt torch; then :; \
    elif [ "$TORCH_LOCK" = none ]; then \
      pip --python /opt/venv/bin/python install -c constraints.txt torch; \
    else pip --python /opt/venv/bin/python install --require-hashes -r "$TORCH_LOCK"; fi
RUN pip --python /opt/venv/bin/python install --require-hashes -r docker/locks/cloud.txt \
    && pip install --require-hashes --target /backend -r docker/locks/build.txt
COPY . .
RUN PYTHONPATH=/backend pip wheel --no-index --no-build-isolation --wheel-dir /wheel . ./aligned_vq/reference \
    && pip --python /opt/venv/bin/python install --no-index /wheel/*.whl \
    && cd /opt/venv/lib/python3*/site-packages/aligned_vq/reference \
    && mkdir /models \
    && mv bundle /models/bundle \
    && mv checkpoint /models/llava
# Volumes mounted here for the first time are the service's own and nobody else's.
RUN install -d -m 0700 /certs /certs/authority /certs/cloud /certs/edge

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /models /models
COPY --from=build --chown=10001:10001 /certs /certs
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8081/readyz', timeout=4)"]
ENTRYPOINT ["cloud-server"]
CMD ["serve", "--bundle=/models/bundle", "--model=/models/llava", "--http_port=8081"]
