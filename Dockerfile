# One image for the operator, the runner and the command line: `godwit ...` and `python -m godwit.runner`.
# It runs as any user id, with a read-only root file system. What changes seldom comes first: Debian's packages, the
# locked requirements, the package itself. Nothing that only builds (pip, hatchling) is in the image.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/godwit
COPY requirements/build.txt /src/requirements/
# The secrets here and below are optional: a builder behind its own certificate authority hands pip that one's certificate.
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle \
    /opt/build/bin/pip install --quiet --require-hashes -r /src/requirements/build.txt

FROM build AS package
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
COPY migrations /src/migrations
# Compiled with unchecked hashes: what is imported need not be compared with its source's time.
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /wheel /src \
    && /opt/build/bin/pip --python /opt/godwit/bin/python3 install --quiet --no-deps --no-index --no-compile \
       --prefix /package /wheel/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s /package -p /opt/godwit /package/lib

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
       python3 ca-certificates postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt
# PostgreSQL's own folder comes before /usr/bin, whose pg_dump and pg_restore are a wrapper in Perl: 22 ms of CPU for each start.
ENV PATH=/opt/godwit/bin:/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY requirements/runtime.txt /opt/godwit/requirements.txt
RUN --mount=type=bind,from=build,source=/opt/build,target=/opt/build \
    --mount=type=secret,id=pip-conf,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle \
    python3 -m venv --without-pip /opt/godwit \
    && /opt/build/bin/pip --no-cache-dir --python /opt/godwit/bin/python3 install --quiet \
       --disable-pip-version-check --root-user-action ignore --no-compile --only-binary :all: \
       --require-hashes -r /opt/godwit/requirements.txt \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/godwit/lib
USER 65532:65532
ENTRYPOINT ["godwit"]
COPY --from=package /package /opt/godwit
