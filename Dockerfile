# The server alone: no torch, no tests. EXTRA=gpu needs the NVIDIA container runtime on the host.
FROM python:3.12-slim AS build
ARG EXTRA=cpu
WORKDIR /source
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md ./
COPY app app
COPY defenses defenses
COPY models models
RUN /venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt ".[${EXTRA}]"

FROM python:3.12-slim
# The root filesystem may be read-only: only /state and /tmp are written to.
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 TMPDIR=/tmp
RUN install -d -o 10001 -g 10001 -m 0700 /state
COPY --from=build /venv /venv
USER 10001:10001
WORKDIR /state
VOLUME /state
# 8001 is the operators' port. It listens on 127.0.0.1 inside the container until admin.host says otherwise.
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["cloneguard", "serve", "--host", "0.0.0.0", "--state", "/state"]
