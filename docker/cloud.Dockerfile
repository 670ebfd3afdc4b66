# The cloud: `cloud-server`. Beside the libraries it holds the reference model, 20 MB, as /models/llava
# and /models/bundle; a volume mounted at /models takes its place.
#
# PyPI's torch for Linux brings CUDA along. For CPUs alone, give an index that has another as
# PIP_EXTRA_INDEX_URL, or a base image whose pip knows one.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
# The libraries first: they stay as they are while only the code changes.
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY aligned_vq/__init__.py aligned_vq/
RUN pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt '.[cloud]'
COPY . .
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --force-reinstall . \
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
