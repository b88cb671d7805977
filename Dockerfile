# One image for every role of the operator: docs/image.md. `scripts/image` builds it.
#
# Both bases are the same on purpose: the virtual environment names the interpreter of the stage
# that made it. Any base with Python 3.11 or newer, venv and a shell (for building) will do.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim

# -- what is installed, from the lock file; made anew when only that changes --------------------
FROM ${BASE_IMAGE} AS dependencies
# Neither time, hash seeds nor a cache may show in what is installed.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0 \
    SOURCE_DATE_EPOCH=315532800 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY scripts/image_tools.txt scripts/image_trim.py scripts/
COPY pyproject.toml uv.lock ./
# Two secrets may be there: settings of a package index, and a certificate bundle of the
# machine's own. As secrets they are in no layer and in no history.
RUN --mount=type=secret,id=build-env --mount=type=secret,id=build-ca \
    set -eu; umask 022; \
    if [ -f /run/secrets/build-env ]; then set -a; . /run/secrets/build-env; set +a; fi; \
    if [ -s /run/secrets/build-ca ]; then \
      export PIP_CERT=/run/secrets/build-ca SSL_CERT_FILE=/run/secrets/build-ca; \
    fi; \
    python3 -m venv /opt/tools; \
    /opt/tools/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r scripts/image_tools.txt; \
    /opt/tools/bin/uv export --quiet --frozen --no-dev --extra operator --no-emit-project \
      --output-file /opt/requirements.txt; \
    python3 -m venv --without-pip /opt/bubu-storage; \
    /opt/tools/bin/uv pip install --python /opt/bubu-storage/bin/python \
      --require-hashes --no-deps --only-binary :all: -r /opt/requirements.txt; \
    /opt/bubu-storage/bin/python scripts/image_trim.py /opt/bubu-storage

# -- our own code, laid out as a second layer over the same folder ------------------------------
FROM dependencies AS application
COPY LICENSE README.md ./
COPY operator/bubu_operator operator/bubu_operator
COPY storage_lib/bubu_storage storage_lib/bubu_storage
RUN set -eu; umask 022; \
    PATH="/opt/tools/bin:$PATH" /opt/tools/bin/uv build --quiet --offline --wheel --no-build-isolation \
      --python /opt/tools/bin/python --out-dir /opt/wheels; \
    /opt/tools/bin/uv pip install --quiet --offline --python /opt/bubu-storage/bin/python \
      --prefix /opt/application --no-deps --no-index --find-links /opt/wheels bubu-storage; \
    /opt/bubu-storage/bin/python scripts/image_trim.py /opt/application

# -- the image: the base and two folders --------------------------------------------------------
FROM ${BASE_IMAGE}
COPY --from=dependencies /opt/bubu-storage /opt/bubu-storage
COPY --from=application /opt/application /opt/bubu-storage
# USER and LOGNAME: a uid without a passwd entry has no name otherwise, and getpass asks for one.
# HOME is no folder: whoever may write below it could leave settings there that clients read.
ENV PATH=/opt/bubu-storage/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/nonexistent \
    LANG=C.UTF-8 \
    LOGNAME=bubu \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USER=bubu
WORKDIR /
USER 65532:65532
STOPSIGNAL SIGTERM
EXPOSE 8080 8081 8444 10250
ENTRYPOINT ["bubu-operator"]
CMD ["--help"]
ARG BASE_IMAGE VERSION=unknown REVISION=unknown SOURCE=unknown CREATED=unknown
LABEL org.opencontainers.image.title="bubu-storage-operator" \
      org.opencontainers.image.description="Object storage for workflow pods on Kubernetes: controller, webhook and retention passes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
