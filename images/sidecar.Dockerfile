# The sidecar alone: a container beside that of any HTTP server, in the same pod. From the top of the repository:
#   docker build -f images/sidecar.Dockerfile -t task-sidecar .
#   docker run --network container:MY_SERVER task-sidecar --upstream http://127.0.0.1:8000
# docs/images.md says what to set, and what of this was run.
FROM python:3.12-slim-bookworm AS packages

RUN python -m venv /opt/service
WORKDIR /build
COPY images/requirements-tracing.txt images/sitecustomize.py ./
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements-tracing.txt \
    && cp sitecustomize.py /opt/service/lib/python3.12/site-packages/
COPY sdk/ sdk/
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check "./sdk[otel]"

FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin service
COPY --from=packages /opt/service /opt/service
WORKDIR /home/service

ENV PATH=/opt/service/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SERVICE_HOST=0.0.0.0 \
    PORT=8080

USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-S", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["python", "-m", "taskbackbone", "sidecar"]
CMD ["--upstream", "http://127.0.0.1:8000"]
