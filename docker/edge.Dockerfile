# The edge: `edge-client` with its gateway, and ONNX Runtime instead of torch. Beside the libraries it
# holds the reference model's bundle, 6 MB, as /models/bundle; a volume mounted at /models takes its
# place. What is installed is in docker/locks, with hashes.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all:
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
# The libraries first: they stay as they are while only the code changes. Their own tests go.
COPY docker/locks docker/locks
RUN pip --python /opt/venv/bin/python install --require-hashes -r docker/locks/edge.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -r {} + \
    && pip install --require-hashes --target /backend -r docker/locks/build.txt
COPY . .
RUN PYTHONPATH=/backend pip wheel --no-index --no-build-isolation --wheel-dir /wheel . \
    && pip --python /opt/venv/bin/python install --no-index /wheel/*.whl \
    && cd /opt/venv/lib/python3*/site-packages/aligned_vq/reference \
    && mkdir /models \
    && mv bundle /models/bundle
# The system and what was installed, in one layer; not what the base has for installing, such as a
# folder of wheels, and not what the engine lends a build of the machine's own.
RUN mkdir /image \
    && cp -a /bin /etc /lib* /models /opt /sbin /tmp /usr /var /image \
    && rm -f /image/etc/hostname /image/etc/hosts /image/etc/resolv.conf

FROM scratch
COPY --from=build /image /
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080
# Ready: the cloud is within reach.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["edge-client"]
CMD ["serve", "--bundle=/models/bundle"]
