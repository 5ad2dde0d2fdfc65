# A model service in R. From the top of the repository, for the service in sdk/r/example/stations.R:
#   docker build -f images/r.Dockerfile -t stations .
# and for another folder and file, with more packages of Debian's:
#   docker build -f images/r.Dockerfile --build-arg SERVICE=my_api --build-arg SCRIPT=api.R \
#     --build-arg PACKAGES="r-cran-terra" -t mine .
# docs/images.md says what to set, and what of this was run.
FROM debian:bookworm-slim

ARG PACKAGES=""
# Debian has one version of each at a time.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl r-base-core r-cran-plumber r-cran-crul r-cran-jsonlite \
        r-cran-urltools r-cran-callr r-cran-later ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin service

COPY sdk/r/ai4e_api_tools/ /ai4e_api_tools/
COPY sdk/r/serve /usr/local/bin/serve
WORKDIR /home/service/app
ARG SERVICE=sdk/r/example
COPY ${SERVICE}/ ./

ARG SCRIPT=stations.R
ENV SERVICE_SCRIPT=${SCRIPT} \
    AI4E_API_TOOLS=/ai4e_api_tools \
    LC_ALL=C.UTF-8 \
    SERVICE_HOST=0.0.0.0 \
    PORT=8080

USER 10001
EXPOSE 8080
# Any answer is a sign of life: the service need not have a page of its own for this.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["sh", "-c", "curl -s -o /dev/null http://127.0.0.1:$PORT/"]
# The launcher has to be the first process: R hears no SIGTERM.
CMD ["serve"]
