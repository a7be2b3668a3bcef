/* The client of everything that is measured: sends requests from a file, checks every answer, tells one line of JSON.
 *
 *   load requests  PORT PIDS FILE CONNECTIONS   each record once, in order, CONNECTIONS at a time; bodies must come back
 *   load streams   PORT PIDS FILE SECONDS       each record opens a stream of events; counted for SECONDS once all run
 *   load websocket PORT PIDS FILE ROUND_TRIPS   each record opens a WebSocket; frames go to and fro on all of them
 *   load hold      PORT PIDS FILE 0             each record opens a stream; says "ready", holds them until stdin ends
 *   load bulk      PORT PIDS FILE 0             records one after another, their answers counted and not compared
 *
 * FILE holds records of two 32-bit numbers (bytes in all, bytes before the body) and the bytes to send. PIDS, joined by
 * commas, are the processes whose CPU time is read when the measured part begins and when it ends; "-" for none.
 * An answer that is not the right one ends the run with status 1: nothing is told of a run that was not whole.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, MAX_EVENTS = 256, FRAME = 32, MAX_PIDS = 16 };

struct record {
    const char *data;
    uint32_t size, head;
};

struct connection {
    int fd, answered, open;    /* answered: the status is right; open: the first event has come */
    const struct record *sent;
    uint32_t written;
    int64_t since;
    long long left;            /* of an answer's body, once its head is read; else -1 */
    size_t used;
    char *data;
};

static struct record *records;
static struct connection *connections;
static size_t record_count;
static int poller, port;
static int64_t *latencies;
static size_t latency_count, latency_room;
static clockid_t clocks[MAX_PIDS];
static int clock_count;
static int64_t began_ns, began_cpu_ns;

static int64_t read_clock(clockid_t clock) {
    struct timespec at;
    if (clock_gettime(clock, &at)) {
        perror("load: a measured process has gone");
        exit(1);
    }
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

static int64_t cpu_ns(void) {
    int64_t sum = 0;
    for (int i = 0; i < clock_count; i++) sum += read_clock(clocks[i]);
    return sum;
}

static void begin(void) {
    latency_count = 0;
    began_cpu_ns = cpu_ns();
    began_ns = now_ns();
}

static void note(int64_t latency) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
    }
    latencies[latency_count++] = latency;
}

static int by_size(const void *a, const void *b) {
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static double at_rank(double share) {
    if (!latency_count) return 0;
    size_t rank = (size_t)(share * (double)latency_count + 0.999999);
    return (double)latencies[rank ? rank - 1 : 0] / 1e3;
}

static void tell(size_t done, long long bytes) {
    double seconds = (double)(now_ns() - began_ns) / 1e9, cpu_us = (double)(cpu_ns() - began_cpu_ns) / 1e3;
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    printf("{\"done\": %zu, \"seconds\": %.6f, \"cpu_us\": %.1f, \"bytes\": %lld, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           done, seconds, cpu_us, bytes, at_rank(0.5), at_rank(0.99));
    fflush(stdout);
}

static void fail(struct connection *c, const char *why) {
    size_t shown = c->used < 1500 ? c->used : 1500;
    fprintf(stderr, "load: %s\n%.*s\n", why, (int)shown, c->data);
    exit(1);
}

static void load_records(const char *path) {
    struct stat found;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &found)) {
        perror(path);
        exit(1);
    }
    const char *data = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    size_t room = 0, at = 0, size = (size_t)found.st_size;
    while (at + 8 <= size) {
        if (record_count == room) records = realloc(records, (room = room ? room * 2 : 1024) * sizeof *records);
        struct record *made = &records[record_count++];
        memcpy(&made->size, data + at, 4);
        memcpy(&made->head, data + at + 4, 4);
        made->data = data + at + 8;
        at += 8 + made->size;
    }
    if (!record_count || at != size) {
        fprintf(stderr, "load: %s holds no records\n", path);
        exit(1);
    }
}

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event wanted = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
}

static void push(struct connection *c) {
    while (c->written < c->sent->size) {
        ssize_t wrote = send(c->fd, c->sent->data + c->written, c->sent->size - c->written, MSG_NOSIGNAL);
        if (wrote < 0) {
            if (errno != EAGAIN) fail(c, "the connection broke while a request was sent");
            watch(c, EPOLLIN | EPOLLOUT);
            return;
        }
        c->written += (uint32_t)wrote;
        if (c->written == c->sent->size && c->sent->size > BUFFER) watch(c, EPOLLIN);
    }
}

static void start(struct connection *c, const struct record *what) {
    c->sent = what;
    c->written = 0;
    c->used = 0;
    c->left = -1;
    c->since = now_ns();
    push(c);
}

static void open_connections(size_t count) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    connections = calloc(count, sizeof *connections);
    for (size_t i = 0; i < count; i++) {
        struct connection *c = &connections[i];
        int on = 1;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        c->data = malloc(BUFFER + 1);
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
            perror("load: connect");
            exit(1);
        }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted);
    }
}

/* How many bytes came; the buffer is full when none could. */
static size_t receive(struct connection *c) {
    ssize_t came = recv(c->fd, c->data + c->used, BUFFER - c->used, 0);
    if (came == 0) fail(c, "the connection was closed");
    if (came < 0) {
        if (errno != EAGAIN) fail(c, "the connection broke");
        return 0;
    }
    c->used += (size_t)came;
    c->data[c->used] = 0;
    return (size_t)came;
}

/* Whether the head is there; then `left` is the body's length and the head's bytes are gone. */
static int read_head(struct connection *c) {
    char *end = memmem(c->data, c->used, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(c->data, "HTTP/1.1 200 ", 13)) fail(c, "the status is not 200");
    *end = 0;
    char *length = strcasestr(c->data, "\ncontent-length:");
    if (!length) fail(c, "no length");
    c->left = atoll(length + 16);
    size_t head = (size_t)(end + 4 - c->data);
    memmove(c->data, c->data + head, c->used - head);
    c->used -= head;
    return 1;
}

static int wait_events(struct epoll_event *events) {
    int count = epoll_wait(poller, events, MAX_EVENTS, 30000);
    if (count == 0) {
        fprintf(stderr, "load: nothing came for 30 s\n");
        exit(1);
    }
    return count < 0 ? 0 : count;
}

static void run_requests(size_t wanted) {
    struct epoll_event events[MAX_EVENTS];
    size_t next = 0, done = 0, count = wanted < record_count ? wanted : record_count;
    open_connections(count);
    begin();
    for (size_t i = 0; i < count; i++) start(&connections[i], &records[next++]);
    while (done < record_count) {
        int ready = wait_events(events);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (!receive(c) || (c->left < 0 && !read_head(c)) || (long long)c->used < c->left) continue;
            const struct record *sent = c->sent;
            if (!sent || c->left != sent->size - sent->head || memcmp(c->data, sent->data + sent->head, (size_t)c->left))
                fail(c, "the answer is not what was sent");
            note(now_ns() - c->since);
            c->sent = NULL;
            done++;
            if (next < record_count) start(c, &records[next++]);
        }
    }
    tell(done, 0);
}

static void run_bulk(void) {
    struct epoll_event events[MAX_EVENTS];
    long long bytes = 0;
    open_connections(1);
    struct connection *c = &connections[0];
    begin();
    for (size_t at = 0; at < record_count; at++) {
        long long taken = 0;
        start(c, &records[at]);
        bytes += records[at].size;
        while (c->left < 0 || taken < c->left) {
            wait_events(events);
            if (events[0].events & EPOLLOUT) push(c);
            size_t came = receive(c);
            if (!came) continue;
            if (c->left < 0) {
                if (!read_head(c)) continue;
                came = c->used;
            }
            taken += (long long)came;
            if (c->left > 1000) c->used = 0;
        }
        bytes += taken;
        note(now_ns() - c->since);
    }
    tell(record_count, bytes);
}

/* -- streams -- */

static size_t count_events(struct connection *c) {
    static const char mark[] = "data: {\"at\": ";
    size_t found = 0;
    char *at = c->data, *next;
    int64_t now = now_ns();
    while ((next = memmem(at, c->used - (size_t)(at - c->data), mark, sizeof mark - 1))) {
        if ((size_t)(next - c->data) + sizeof mark - 1 + 20 > c->used) break;
        note(now - atoll(next + sizeof mark - 1));
        found++;
        at = next + sizeof mark - 1 + 20;
    }
    /* The rest may hold the beginning of an event. */
    size_t rest = c->used - (size_t)(at - c->data);
    if (rest > 64 && !next) {
        at += rest - 64;
        rest = 64;
    }
    memmove(c->data, at, rest);
    c->used = rest;
    return found;
}

static void open_streams(void) {
    struct epoll_event events[MAX_EVENTS];
    size_t running = 0;
    open_connections(record_count);
    for (size_t i = 0; i < record_count; i++) start(&connections[i], &records[i]);
    while (running < record_count) {
        int ready = wait_events(events);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!receive(c)) continue;
            if (!c->answered && c->used < 13) continue;
            if (!c->answered && memcmp(c->data, "HTTP/1.1 200 ", 13)) fail(c, "the status is not 200");
            c->answered = 1;
            if (count_events(c) && !c->open) c->open = 1, running++;
        }
    }
}

static void run_streams(double seconds) {
    struct epoll_event events[MAX_EVENTS];
    size_t done = 0;
    open_streams();
    begin();
    while ((double)(now_ns() - began_ns) < seconds * 1e9) {
        int ready = wait_events(events);
        for (int i = 0; i < ready; i++)
            if (receive(events[i].data.ptr)) done += count_events(events[i].data.ptr);
    }
    tell(done, 0);
}

static void run_hold(void) {
    char byte;
    open_streams();
    printf("ready\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
}

/* -- WebSocket -- */

static void send_frame(struct connection *c) {
    static const unsigned char mask[4] = {0x11, 0x22, 0x33, 0x44};
    unsigned char frame[6 + FRAME] = {0x82, 0x80 | FRAME};
    memcpy(frame + 2, mask, 4);
    for (int i = 0; i < FRAME; i++) frame[6 + i] = (unsigned char)(i + 'A') ^ mask[i % 4];
    c->since = now_ns();
    if (send(c->fd, frame, sizeof frame, MSG_NOSIGNAL) != sizeof frame) fail(c, "a frame could not be sent");
}

static void run_websocket(size_t wanted) {
    struct epoll_event events[MAX_EVENTS];
    size_t running = 0, done = 0, sent = 0;
    open_connections(record_count);
    for (size_t i = 0; i < record_count; i++) start(&connections[i], &records[i]);
    while (running < record_count) {
        int ready = wait_events(events);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!receive(c) || !memmem(c->data, c->used, "\r\n\r\n", 4)) continue;
            if (memcmp(c->data, "HTTP/1.1 101 ", 13)) fail(c, "the status is not 101");
            c->used = 0;
            running++;
        }
    }
    begin();
    for (; sent < record_count && sent < wanted; sent++) send_frame(&connections[sent]);
    while (done < wanted) {
        int ready = wait_events(events);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!receive(c) || c->used < 2 + FRAME) continue;
            if (c->used != 2 + FRAME || (unsigned char)c->data[0] != 0x82 || c->data[1] != FRAME || c->data[2] != 'A' ||
                c->data[1 + FRAME] != FRAME - 1 + 'A')
                fail(c, "the frame is not what was sent");
            note(now_ns() - c->since);
            c->used = 0;
            done++;
            if (sent < wanted) sent++, send_frame(c);
        }
    }
    tell(done, 0);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: load MODE PORT PIDS FILE NUMBER\n");
        return 2;
    }
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    const char *mode = argv[1];
    port = atoi(argv[2]);
    for (char *pid = strcmp(argv[3], "-") ? strtok(argv[3], ",") : NULL; pid; pid = strtok(NULL, ","))
        if (clock_count == MAX_PIDS || clock_getcpuclockid(atoi(pid), &clocks[clock_count++])) {
            fprintf(stderr, "load: no CPU clock of process %s\n", pid);
            return 1;
        }
    load_records(argv[4]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!strcmp(mode, "requests")) run_requests((size_t)atoll(argv[5]));
    else if (!strcmp(mode, "streams")) run_streams(atof(argv[5]));
    else if (!strcmp(mode, "websocket")) run_websocket((size_t)atoll(argv[5]));
    else if (!strcmp(mode, "hold")) run_hold();
    else if (!strcmp(mode, "bulk")) run_bulk();
    else return 2;
    return 0;
}
