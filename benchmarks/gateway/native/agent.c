/* The agent behind every proxy that is measured: an HTTP/1.1 server that costs next to nothing.
 *
 * What it does depends on the first byte of a request's body, since proxies may drop headers and rewrite paths:
 *   's'  a stream of events, one in each 20 ms, for ever       'i'  one event, then silence
 *   'd'  a download of as many bytes as the number after it    'u'  an upload: its length is the answer
 *   else the body comes back (up to BUFFER bytes)
 * A request with `Sec-WebSocket-Key` becomes a WebSocket on which every frame (up to 125 bytes) comes back.
 *
 * Prints its port. Not for the open network: it trusts whoever connects.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, MAX_FDS = 65536, EVENT_MS = 20, MAX_EVENTS = 256, LAST = 7 };
enum mode { HEAD, BODY, CHUNKS, STREAM, IDLE, DOWNLOAD, WEBSOCKET };

struct connection {
    enum mode mode;
    char kind;         /* first byte of the body */
    long long left;    /* of a body of known length, or of a download */
    long long taken;   /* bytes of an upload */
    int keep;          /* bytes of the body that are kept in `data`, to be sent back */
    char tail[LAST];   /* the last bytes of a chunked upload */
    int used;
    char data[BUFFER + 1];
};

static struct connection *connections[MAX_FDS];
static int poller;
static char zeros[BUFFER];

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void drop(int fd) {
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

/* All of it or the connection: answers are small beside the socket's buffer. */
static int send_all(int fd, const void *data, size_t size) {
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    return sent == (ssize_t)size;
}

/* -- WebSocket: SHA-1 and base64 of the key (RFC 6455 section 4.2.2) -- */

static uint32_t rotate(uint32_t word, int by) { return word << by | word >> (32 - by); }

static void sha1(const unsigned char *text, size_t size, unsigned char digest[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char padded[192] = {0};
    size_t blocks = (size + 8) / 64 + 1;
    memcpy(padded, text, size);
    padded[size] = 0x80;
    for (int i = 0; i < 8; i++) padded[blocks * 64 - 1 - i] = (unsigned char)((uint64_t)size * 8 >> (8 * i));
    for (size_t block = 0; block < blocks; block++) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            const unsigned char *at = padded + block * 64 + i * 4;
            w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
            uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint32_t next = rotate(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - i % 4 * 8));
}

static void accept_key(const char *key, char out[32]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char text[64], digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, 60, digest);
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[i * 3] << 16 | (uint32_t)digest[i * 3 + 1] << 8 | digest[i * 3 + 2];
        for (int j = 0; j < 4; j++) out[i * 4 + j] = alphabet[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=', out[28] = 0;
}

static int upgrade(int fd, struct connection *c, const char *key) {
    char accepted[32], answer[256];
    accept_key(key, accepted);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", accepted);
    c->mode = WEBSOCKET;
    c->used = 0;
    return send_all(fd, answer, (size_t)size);
}

static int echo_frames(int fd, struct connection *c) {
    char out[BUFFER];
    int at = 0, size = 0;
    while (c->used - at >= 6) {
        unsigned char *frame = (unsigned char *)c->data + at;
        int length = frame[1] & 127;
        if (!(frame[1] & 128) || length > 125) return 0;
        if (c->used - at < 6 + length) break;
        if ((frame[0] & 15) == 8) return 0;
        out[size++] = (char)frame[0];
        out[size++] = (char)length;
        for (int i = 0; i < length; i++) out[size++] = (char)(frame[6 + i] ^ frame[2 + i % 4]);
        at += 6 + length;
    }
    memmove(c->data, c->data + at, (size_t)(c->used - at));
    c->used -= at;
    return size == 0 || send_all(fd, out, (size_t)size);
}

/* -- answers -- */

static int event(int fd) {
    char text[128], chunk[160];
    int size = snprintf(text, sizeof text, "data: {\"at\": %020lld, \"text\": \"a few words of an answer\"}\n\n",
                        (long long)now_ns());
    size = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", size, text);
    return send_all(fd, chunk, (size_t)size);
}

static int download(int fd, struct connection *c) {
    while (c->left > 0) {
        ssize_t sent = send(fd, zeros, c->left < BUFFER ? (size_t)c->left : BUFFER, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return 0;
            struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
            epoll_ctl(poller, EPOLL_CTL_MOD, fd, &wanted);
            return 1;
        }
        c->left -= sent;
    }
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &wanted);
    c->mode = HEAD;
    return 1;
}

/* The body is there, its first `size` bytes at `body`. */
static int answer(int fd, struct connection *c, const char *body, int size) {
    char out[BUFFER + 256];
    c->mode = HEAD;
    if (c->kind == 's' || c->kind == 'i') {
        static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                                   "Transfer-Encoding: chunked\r\n\r\n";
        c->mode = c->kind == 's' ? STREAM : IDLE;
        return send_all(fd, head, sizeof head - 1) && event(fd);
    }
    if (c->kind == 'd') {
        char number[24] = {0};
        memcpy(number, body + 1, (size_t)(size - 1 < 20 ? size - 1 : 20));
        c->left = atoll(number);
        int used = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                                             "Content-Length: %lld\r\n\r\n", c->left);
        c->mode = DOWNLOAD;
        return send_all(fd, out, (size_t)used) && download(fd, c);
    }
    char told[32];
    if (c->kind == 'u') {
        size = snprintf(told, sizeof told, "%lld", c->taken);
        body = told;
    }
    int used = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
                        size);
    memcpy(out + used, body, (size_t)size);
    return send_all(fd, out, (size_t)(used + size));
}

/* -- requests -- */

/* Only uploads come in chunks. Nothing follows them, so that their end is the end of what has come. */
static int chunks(int fd, struct connection *c, const char *at, int size) {
    char tail[2 * LAST];
    int fresh = size < LAST ? size : LAST;
    memcpy(tail, c->tail, LAST);
    memcpy(tail + LAST, at + size - fresh, (size_t)fresh);
    memcpy(c->tail, tail + fresh, LAST);
    c->taken += size;
    if (memcmp(c->tail, "\r\n0\r\n\r\n", LAST)) return 1;
    c->kind = 'u';
    return answer(fd, c, "", 0);
}

static int bytes(int fd, struct connection *c) {
    if (c->mode == WEBSOCKET) return echo_frames(fd, c);
    if (c->mode == CHUNKS) {
        int used = c->used;
        c->used = 0;
        return chunks(fd, c, c->data, used);
    }
    if (c->mode == BODY) {
        c->left -= c->used - c->keep;
        c->taken += c->used - c->keep;
        if (c->kind == 'u') c->used = 0;
        c->keep = c->used;
        if (c->left > 0) return c->used < BUFFER;
        c->used = 0;
        return answer(fd, c, c->data, c->keep);
    }
    if (c->mode != HEAD) return 0;
    while (c->mode == HEAD && c->used) {
        c->data[c->used] = 0;
        char *end = memmem(c->data, (size_t)c->used, "\r\n\r\n", 4);
        if (!end) return c->used < BUFFER;
        *end = 0;
        char *key = strcasestr(c->data, "\nsec-websocket-key: ");
        if (key) return upgrade(fd, c, key + 20);
        char *length = strcasestr(c->data, "\ncontent-length:");
        char *coding = strcasestr(c->data, "\ntransfer-encoding:");
        int head = (int)(end + 4 - c->data), there = c->used - head;
        c->taken = 0;
        if (coding) {
            c->mode = CHUNKS;
            memset(c->tail, 0, LAST);
            memmove(c->data, c->data + head, (size_t)there);
            c->used = there;
            return bytes(fd, c);
        }
        long long wanted = length ? atoll(length + 16) : 0;
        if (there < wanted) {
            c->kind = there ? c->data[head] : 0;
            if (!there) { /* the first byte says what is wanted: wait for it */
                *end = '\r';
                return 1;
            }
            memmove(c->data, c->data + head, (size_t)there);
            c->used = there;
            c->keep = 0;
            c->left = wanted;
            c->mode = BODY;
            return bytes(fd, c);
        }
        c->kind = wanted ? c->data[head] : 0;
        c->taken = wanted;
        if (!answer(fd, c, c->data + head, (int)wanted)) return 0;
        memmove(c->data, c->data + head + wanted, (size_t)(there - wanted));
        c->used = (int)(there - wanted);
    }
    return 1;
}

static int readable(int fd, struct connection *c) {
    ssize_t came = recv(fd, c->data + c->used, (size_t)(BUFFER - c->used), 0);
    if (came <= 0) return came < 0 && errno == EAGAIN;
    c->used += (int)came;
    return bytes(fd, c);
}

static void welcome(int listener) {
    int on = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[fd] = calloc(1, sizeof(struct connection));
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static void tick(int timer) {
    static uint64_t ticks;
    uint64_t passed = 0;
    if (read(timer, &passed, sizeof passed) != sizeof passed) return;
    for (; passed; passed--) {
        ticks++;
        for (int fd = (int)(ticks % EVENT_MS); fd < MAX_FDS; fd += EVENT_MS)
            if (connections[fd] && connections[fd]->mode == STREAM && !event(fd)) drop(fd);
    }
}

int main(void) {
    struct rlimit files = {MAX_FDS, MAX_FDS};
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) {
        perror("upstream");
        return 1;
    }
    getsockname(listener, (struct sockaddr *)&address, &size);
    memset(zeros, 'z', sizeof zeros);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec pace = {{0, 1000000}, {0, 1000000}};
    timerfd_settime(timer, 0, &pace, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int watched[] = {listener, timer};
    for (int i = 0; i < 2; i++) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = watched[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, watched[i], &wanted);
    }
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int count = epoll_wait(poller, events, MAX_EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) welcome(listener);
            else if (fd == timer) tick(timer);
            else if (connections[fd]) {
                struct connection *c = connections[fd];
                if (c->mode == DOWNLOAD && (events[i].events & EPOLLOUT)) {
                    if (!download(fd, c)) drop(fd);
                } else if (!readable(fd, c)) drop(fd);
            }
        }
    }
}
